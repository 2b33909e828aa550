//! The commands as processes, as whoever runs the program sees them.

#[path = "../common/mod.rs"]
mod common;

mod bench;
mod chat;
mod commands;
mod doctor;
mod examples;
mod grammar;
#[cfg(target_os = "linux")]
mod granted;
mod perplexity;
mod plan_budget;
mod reasoning;
mod report_gpu;
mod run;
mod sampling;
mod takeover;
mod troubleshooting;
mod tune;
mod verify;
