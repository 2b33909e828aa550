"""The chat page in a headless browser: type, stream, stop, second turn, edit, reload."""

import os
import time

import pytest
from selenium import webdriver
from selenium.webdriver.chrome.options import Options
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

FLAGS = (
    "--headless=new --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --window-size=900,700"
)


@pytest.fixture
def browser(tmp_path):
    options = Options()
    for flag in FLAGS.split():
        options.add_argument(flag)
    options.add_argument(f"--user-data-dir={tmp_path}")
    options.binary_location = os.environ.get("CHROMIUM", "/usr/bin/chromium")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    browser = webdriver.Chrome(options, Service(os.environ.get("CHROMEDRIVER", "/usr/bin/chromedriver")))
    yield browser
    problems = [entry["message"] for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]
    browser.quit()
    assert not problems


def wait(browser, condition, what):
    for _ in range(600):
        if condition():
            return
        time.sleep(0.05)
    raise AssertionError(f"{what}: {browser.find_element(By.TAG_NAME, 'body').text}")


def texts(browser, selector):
    # In one go: elements are replaced while an answer is written.
    script = "return [...document.querySelectorAll(arguments[0])].map((element) => element.innerText)"
    return browser.execute_script(script, selector)


def bodies(browser):
    return texts(browser, ".message .body")


def idle(browser):
    return browser.find_element(By.ID, "send").is_displayed()


def send(browser, text):
    browser.find_element(By.ID, "text").send_keys(text, Keys.ENTER)


def set_field(browser, name, value):
    field = browser.find_element(By.NAME, name)
    field.clear()
    field.send_keys(value, Keys.TAB)


def test_a_conversation(server, browser):
    browser.get(server.address)
    wait(browser, lambda: browser.find_element(By.ID, "placement").text != "", "the placement")
    browser.find_element(By.ID, "show-settings").click()
    set_field(browser, "max_tokens", "40")
    set_field(browser, "temperature", "0")
    send(browser, "Tell me a story about a dog.")
    wait(browser, lambda: len(bodies(browser)) == 2 and bodies(browser)[1] and idle(browser), "an answer")
    first = bodies(browser)
    assert "40 tokens" in texts(browser, ".tools")[1]
    send(browser, "And about a cat.")
    wait(browser, lambda: len(bodies(browser)) == 4 and bodies(browser)[3] and idle(browser), "a second answer")
    browser.refresh()
    wait(browser, lambda: len(bodies(browser)) == 4, "the chat after a reload")
    assert bodies(browser)[:2] == first
    before = bodies(browser)
    browser.find_elements(By.XPATH, "//button[text()='Regenerate']")[1].click()
    wait(browser, lambda: len(bodies(browser)) == 4 and idle(browser) and bodies(browser)[3], "another answer")
    assert bodies(browser) == before  # Temperature 0.
    if "SCREENSHOT" in os.environ:  # docs/chat-page.png is made so.
        browser.execute_script('document.getElementById("chat").scrollTop = 0; document.activeElement.blur()')
        browser.save_screenshot(os.environ["SCREENSHOT"])
    browser.find_elements(By.XPATH, "//button[text()='Edit']")[1].click()
    wait(browser, lambda: len(bodies(browser)) == 2, "the chat up to the edited message")
    assert browser.find_element(By.ID, "text").get_attribute("value") == "And about a cat."
    browser.find_element(By.ID, "new").click()
    wait(browser, lambda: bodies(browser) == [], "an empty chat")


def test_stop(server, browser):
    browser.get(server.address)
    browser.find_element(By.ID, "show-settings").click()
    set_field(browser, "max_tokens", "3000")
    # A story that finds no end.
    for name, value in [("temperature", "2"), ("top_p", "1"), ("top_k", "0"), ("min_p", "0"), ("seed", "12")]:
        set_field(browser, name, value)
    # The answer of a small model may end sooner than a driver can click.
    browser.execute_script(
        """
        const chat = document.getElementById("chat");
        new MutationObserver((_, observer) => {
            if (!document.querySelectorAll(".message .body")[1]?.innerText) return;
            observer.disconnect();
            document.getElementById("stop").click();
        }).observe(chat, { subtree: true, childList: true });
        """
    )
    send(browser, "Tell me a long story.")
    wait(browser, lambda: len(bodies(browser)) == 2 and bodies(browser)[1], "the beginning of an answer")
    wait(browser, lambda: idle(browser), "the end of the answer")
    assert "stopped" in texts(browser, ".tools")[1]


def test_an_error_is_shown(key_server, browser):
    browser.get(key_server.address)
    wait(browser, lambda: "Invalid API Key" in browser.find_element(By.ID, "status").text, "the error")
    browser.find_element(By.ID, "show-settings").click()
    set_field(browser, "key", "secret")
    wait(browser, lambda: browser.find_element(By.ID, "status").text == "", "the key is taken")
    browser.get_log("browser")  # The refused requests are there.


def test_html_of_a_model_stays_text(server, browser):
    browser.get(server.address)
    script = """
        const box = document.createElement("div");
        box.append(markdown(arguments[0]));
        return [box.innerHTML, box.textContent];
    """
    html, text = browser.execute_script(script, "<img src=x onerror=alert(1)> **bold** `a<b`\n```\n<script>\n```")
    assert "<img" not in html and "<script>" not in html
    assert "<strong>bold</strong>" in html and "<code>a&lt;b</code>" in html
    assert "<script>" in text


def test_a_narrow_window(server, browser):
    browser.set_window_size(360, 640)
    browser.get(server.address)
    wide = browser.execute_script("return document.documentElement.scrollWidth - document.documentElement.clientWidth")
    assert wide == 0
