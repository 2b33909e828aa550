//! Proof that the device has done what was submitted: drivers have been seen that drop a submit without a word, after which
//! the results of an earlier step would be read again.
//!
//! Each part of a step has a number, which every submit of it hands on from one place to the next, on the device. It comes
//! back with the results.

use crate::{
    backend::gpu::device::Gpu,
    error::{Error, Result},
};

/// Bytes of a number.
pub const NUMBER_BYTES: u64 = 4;

/// The places on the device, and the number of the last part.
pub struct Proof {
    /// Places 0, 2, 4 .. are in the first buffer, the others in the second: within one nothing can be copied.
    places: [wgpu::Buffer; 2],
    number: u32,
    /// The part that is being recorded has its number on the device already.
    begun: bool,
    /// Submits of it so far.
    submits: u64,
}

impl Proof {
    /// For parts of at most so many submits.
    pub fn new(gpu: &Gpu, most_submits: usize) -> Result<Self> {
        let usage = wgpu::BufferUsages::COPY_SRC | wgpu::BufferUsages::COPY_DST;
        let place = || gpu.buffer("numbers of steps", NUMBER_BYTES * (most_submits as u64 + 1), usage);
        Ok(Self { places: [place()?, place()?], number: 0, begun: false, submits: 0 })
    }

    /// Begins the record of a part.
    pub fn restart(&mut self) {
        (self.begun, self.submits) = (false, 0);
    }

    /// Writes the number of a part before its first submit.
    pub fn begin(&mut self, gpu: &Gpu) {
        self.number = self.number.wrapping_add(1);
        self.begun = true;
        gpu.queue.write_buffer(&self.places[0], 0, &self.number.to_le_bytes());
    }

    /// Ends a submit behind which there is another one of the part.
    pub fn hand_on(&mut self, encoder: &mut wgpu::CommandEncoder) {
        let (from, at, bytes) = self.place(self.submits);
        let (to, next, _) = self.place(self.submits + 1);
        encoder.copy_buffer_to_buffer(from, at, to, next, bytes);
        self.submits += 1;
    }

    /// The place of the number in the last submit: buffer, offset, bytes.
    pub fn source(&self) -> (&wgpu::Buffer, u64, u64) {
        self.place(self.submits)
    }

    fn place(&self, submits: u64) -> (&wgpu::Buffer, u64, u64) {
        (&self.places[(submits % 2) as usize], NUMBER_BYTES * submits, NUMBER_BYTES)
    }

    /// The number of a part whose last submit comes next; with `dropped` a test wants one that the device does not get.
    pub fn launch(&mut self, gpu: &Gpu, dropped: bool) -> u32 {
        if dropped {
            self.number = self.number.wrapping_add(1);
        } else if !self.begun {
            self.begin(gpu);
        }
        self.restart();
        self.number
    }
}

/// Takes the number that came back off the results.
///
/// # Errors
/// If it is of another part: these are no results.
pub fn proven(bytes: &[u8], number: u32) -> Result<&[u8]> {
    let (found, results) = bytes.split_first_chunk::<4>().unwrap_or((&[0; 4], &[]));
    let found = u32::from_le_bytes(*found);
    if found == number {
        return Ok(results);
    }
    Err(Error::DeviceLost {
        reason: format!("the driver dropped a step: number {number} was submitted, {found} came back"),
    })
}
