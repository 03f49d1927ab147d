//! `report.html` in headless Chromium, driven over the WebDriver protocol (w3.org/TR/webdriver2): plain HTTP and JSON.

use std::collections::HashMap;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use base64::Engine;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::tools;

/// The name under which WebDriver hands out elements.
const ELEMENT: &str = "element-6066-11e4-a52e-4f735466cecf";
const WIDTH: u32 = 1200;
const HEIGHT: u32 = 1500;

/// A browser with one page open; ends with the value.
struct Browser {
    driver: Child,
    session: String,
    _profile: TempDir,
}

fn chromium() -> PathBuf {
    let path = std::env::var_os("QONNX_CHROMIUM").expect(
        "QONNX_CHROMIUM is not set; run `export QONNX_CHROMIUM=$(scripts/get-chromium.sh)`, or all tests by scripts/test.sh",
    );
    PathBuf::from(path)
}

fn request(method: &str, address: &str, body: Value) -> Value {
    let agent: ureq::Agent = ureq::Agent::config_builder().http_status_as_error(false).build().into();
    let answer = if method == "GET" {
        agent.get(address).call()
    } else {
        agent.post(address).header("content-type", "application/json").send(body.to_string())
    };
    let text = answer.unwrap().body_mut().read_to_string().unwrap();
    let answer: Value = serde_json::from_str(&text).unwrap();
    assert!(answer["value"]["error"].is_null(), "{address}: {text}");
    answer["value"].clone()
}

impl Browser {
    fn open(page: &Path) -> Browser {
        let binary = chromium();
        let beside = binary.with_file_name("chromedriver");
        let program = if beside.is_file() { beside } else { PathBuf::from("chromedriver") };
        let mut driver = Command::new(&program)
            .arg("--port=0")
            .stdout(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("{} does not start ({error}); run scripts/get-chromium.sh", program.display()));
        let mut lines = BufReader::new(driver.stdout.take().unwrap()).lines();
        let port =
            lines.find_map(|line| Some(line.unwrap().split("successfully on port ").nth(1)?.trim_end_matches('.').to_owned()));
        let server = format!("http://127.0.0.1:{}", port.expect("chromedriver says its port"));
        let profile = tempfile::tempdir().unwrap();
        let arguments = [
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-quic",
            "--disable-dev-shm-usage",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            "--hide-scrollbars",
            &format!("--window-size={WIDTH},{HEIGHT}"),
            &format!("--user-data-dir={}", profile.path().display()),
        ];
        let options = json!({
            "browserName": "chrome",
            "goog:chromeOptions": {"binary": binary, "args": arguments},
            "goog:loggingPrefs": {"browser": "ALL"},
        });
        let session = request("POST", &format!("{server}/session"), json!({"capabilities": {"alwaysMatch": options}}));
        let session = format!("{server}/session/{}", session["sessionId"].as_str().unwrap());
        let browser = Browser { driver, session, _profile: profile };
        browser.post("url", json!({"url": format!("file://{}", page.display())}));
        browser
    }

    fn post(&self, command: &str, body: Value) -> Value {
        request("POST", &format!("{}/{command}", self.session), body)
    }

    /// What a script returns.
    fn ask(&self, script: &str) -> Value {
        self.post("execute/sync", json!({"script": script, "args": []}))
    }

    /// Address of the first element that a CSS selector matches.
    fn find(&self, selector: &str) -> String {
        let found = self.post("element", json!({"using": "css selector", "value": selector}));
        format!("element/{}", found[ELEMENT].as_str().unwrap())
    }

    fn click(&self, selector: &str) {
        self.post(&format!("{}/click", self.find(selector)), json!({}));
    }

    /// Moves the pointer to the middle of an element.
    fn point_at(&self, selector: &str) {
        let quoted = json!(selector);
        let place = self.ask(&format!(
            "const e = document.querySelector({quoted}); e.scrollIntoView({{block: 'center'}});
             const box = e.getBoundingClientRect(); return [box.left + box.width / 2, box.top + box.height / 2];"
        ));
        let to = |at: usize| place[at].as_f64().unwrap() as i64;
        self.move_to(to(0), to(1));
    }

    fn move_to(&self, x: i64, y: i64) {
        let moved = json!({"type": "pointerMove", "duration": 0, "x": x, "y": y, "origin": "viewport"});
        let pointer = json!({"type": "pointer", "id": "mouse", "parameters": {"pointerType": "mouse"}, "actions": [moved]});
        self.post("actions", json!({"actions": [pointer]}));
    }

    fn press(&self, selector: &str, key: &str) {
        self.post(&format!("{}/value", self.find(selector)), json!({"text": key}));
    }

    /// A picture of the window, kept in `target/tmp`; its pixels as RGB.
    fn screenshot(&self, name: &str) -> Vec<[u8; 3]> {
        let encoded = request("GET", &format!("{}/screenshot", self.session), Value::Null);
        let bytes = base64::engine::general_purpose::STANDARD.decode(encoded.as_str().unwrap()).unwrap();
        fs::write(Path::new(env!("CARGO_TARGET_TMPDIR")).join(name), &bytes).unwrap();
        let mut reader = png::Decoder::new(std::io::Cursor::new(bytes)).read_info().unwrap();
        let mut pixels = vec![0; reader.output_buffer_size().unwrap()];
        let info = reader.next_frame(&mut pixels).unwrap();
        let channels = info.color_type.samples();
        pixels.chunks_exact(channels).map(|pixel| [pixel[0], pixel[1], pixel[2]]).collect()
    }

    fn console(&self) -> Vec<Value> {
        self.post("se/log", json!({"type": "browser"})).as_array().unwrap().clone()
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // The driver ends its browser with its session; a test that failed half way ends here too.
        let agent: ureq::Agent = ureq::Agent::config_builder().http_status_as_error(false).build().into();
        drop(agent.delete(&self.session).call());
        drop(self.driver.kill());
        drop(self.driver.wait());
    }
}

/// The report of the fixture's records, opened.
fn opened() -> (TempDir, Browser) {
    let folder = tempfile::tempdir().unwrap();
    let records = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/report/records");
    qonnx::commands::report::run(&records, folder.path()).unwrap();
    let browser = Browser::open(&folder.path().join("report.html"));
    (folder, browser)
}

/// Values of a column of the summary from top to bottom, and what `aria-sort` says of it.
fn column(browser: &Browser, at: usize) -> (Vec<Option<f64>>, String) {
    let answer = browser.ask(&format!(
        "const table = document.querySelector('#summary table');
         return [[...table.tBodies[0].rows].map(row => row.cells[{at}].dataset.value ?? null),
                 table.tHead.rows[0].cells[{at}].getAttribute('aria-sort')];"
    ));
    let values = answer[0].as_array().unwrap().iter().map(|value| value.as_str().map(|text| text.parse().unwrap()));
    (values.collect(), answer[1].as_str().unwrap().to_owned())
}

#[test]
fn tables_sort_by_click_and_by_key() {
    if !tools::has("QONNX_CHROMIUM") {
        return;
    }
    let (_folder, browser) = opened();
    const F1: usize = 4;
    let header = format!("#summary thead th:nth-child({}) button", F1 + 1);
    assert_eq!(column(&browser, F1).1, "none");
    browser.click(&header);
    let (values, sorted) = column(&browser, F1);
    assert_eq!(sorted, "ascending");
    let known: Vec<f64> = values.iter().flatten().copied().collect();
    assert_eq!((values.len(), known.len()), (17, 16));
    assert!(known.is_sorted() && known[0] < 0.03, "{known:?}");
    assert_eq!(values[16], None, "what has no number comes last");
    browser.press(&header, "\u{E007}");
    let (values, sorted) = column(&browser, F1);
    assert_eq!(sorted, "descending");
    let known: Vec<f64> = values.iter().flatten().copied().collect();
    assert!(known.iter().rev().is_sorted() && values[16].is_none(), "{values:?}");
    browser.click("#summary thead th:nth-child(2) button");
    let names = browser.ask("return [...document.querySelectorAll('#summary tbody th a')].map(a => a.textContent)");
    let names: Vec<&str> = names.as_array().unwrap().iter().map(|name| name.as_str().unwrap()).collect();
    assert!(names.is_sorted() && names[0] == "awq_4bit_g128", "{names:?}");
    assert_eq!(column(&browser, F1).1, "none");
    assert_eq!(browser.console(), Vec::<Value>::new());
}

#[test]
fn a_point_shows_its_record() {
    if !tools::has("QONNX_CHROMIUM") {
        return;
    }
    let (_folder, browser) = opened();
    let shown = || browser.ask("const tip = document.getElementById('tip'); return tip.hidden ? '' : tip.innerText");
    assert_eq!(shown(), "");
    // Row 8 is awq_gptq_4bit_g128; the last spot drawn at a place is on top, and none lies on this one.
    browser.point_at("#accuracy_vs_compression .spot[data-row='8']");
    let text = shown();
    let text = text.as_str().unwrap();
    for part in ["awq_gptq_4bit_g128", "17236eb1b201", "awq_gptq_4bit_g128_results.json", "0.406", "4.13", "48.6 MB"] {
        assert!(text.contains(part), "{part} in {text:?}");
    }
    browser.move_to(1, 1);
    assert_eq!(shown(), "");
    browser.ask("document.querySelector('#latency_comparison .spot').focus()");
    assert!(shown().as_str().unwrap().contains("fp16_baseline"));
    browser.press("#latency_comparison .spot", "\u{E015}");
    assert!(shown().as_str().unwrap().contains("bnb_8bit"), "the arrow goes to the next");
    assert_eq!(browser.console(), Vec::<Value>::new());
}

/// How many colours there are, and the share of the most frequent.
fn variety(pixels: &[[u8; 3]]) -> (usize, f64) {
    let mut counts: HashMap<[u8; 3], usize> = HashMap::new();
    pixels.iter().for_each(|pixel| *counts.entry(*pixel).or_default() += 1);
    (counts.len(), counts.values().copied().max().unwrap_or_default() as f64 / pixels.len() as f64)
}

#[test]
fn it_is_seen_in_both_themes_and_asks_for_nothing() {
    if !tools::has("QONNX_CHROMIUM") {
        return;
    }
    let (_folder, browser) = opened();
    let brightness = |pixel: [u8; 3]| pixel.map(u32::from).iter().sum::<u32>() / 3;
    for (theme, light) in [("light", true), ("dark", false)] {
        let features = json!([{"name": "prefers-color-scheme", "value": theme}]);
        browser.post("goog/cdp/execute", json!({"cmd": "Emulation.setEmulatedMedia", "params": {"features": features}}));
        browser.ask("scrollTo(0, 0)");
        let top = browser.screenshot(&format!("report-{theme}.png"));
        browser.ask("document.getElementById('figures').scrollIntoView()");
        let figures = browser.screenshot(&format!("report-{theme}-figures.png"));
        browser.ask("document.getElementById('summary').scrollIntoView()");
        browser.screenshot(&format!("report-{theme}-summary.png"));
        for pixels in [top, figures] {
            let (colors, share) = variety(&pixels);
            assert!(colors > 60 && share < 0.97, "{theme}: {colors} colours, {share} of one");
            assert_eq!(brightness(pixels[0]) > 128, light, "{theme}: the page's background");
        }
    }
    let fetched = browser.ask(
        "return performance.getEntriesByType('resource').map(entry => entry.name).filter(name => !name.startsWith('data:'))",
    );
    assert_eq!(fetched, json!([]));
    let fonts = browser.ask("return [...document.fonts].filter(font => font.status == 'loaded').length");
    assert_eq!(fonts, json!(2), "the page's own font is used");
    assert_eq!(browser.console(), Vec::<Value>::new());
}
