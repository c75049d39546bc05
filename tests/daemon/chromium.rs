//! A headless Chromium that a test looks at and clicks in, through the Chrome DevTools Protocol.

use std::{
    fs,
    net::TcpStream,
    path::Path,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::{Message as Frame, WebSocket, client};

use crate::daemon::TIMEOUT;

/// The widths at which pages are looked at, in CSS pixels: a telephone and a desk.
pub const WIDTHS: [u32; 2] = [390, 1280];

/// A browser with one page.
pub struct Browser {
    process: Child,
    socket: WebSocket<TcpStream>,
    session: String,
    last_id: u64,
    /// What the console, the log and the security policy complained about.
    pub complaints: Vec<String>,
    _folder: tempfile::TempDir,
}

/// Whether these programs are installed. Panics if one is missing where tokens are required (CI).
pub fn are_installed(programs: &[&str]) -> bool {
    let is_installed = |name: &&str| {
        let found = Command::new(name).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
        found.is_ok_and(|status| status.success())
    };
    let all = programs.iter().all(is_installed);
    let set = |name, value| std::env::var(name).is_ok_and(|is| is == value);
    if !all {
        assert!(!set("CLAVIGER_REQUIRE_TOKENS", "1") && !set("CI", "true"), "one of {programs:?} is missing");
        println!("skipped: one of {programs:?} is not installed");
    }
    all
}

/// A command that runs Chromium without a window, with its files in this folder.
pub fn chromium(folder: &Path) -> Command {
    let mut command = Command::new("chromium");
    command.args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"]);
    command.args(["--disable-background-networking", "--disable-component-update", "--disable-sync"]);
    command.args(["--disable-dev-shm-usage", "--hide-scrollbars"]);
    command.arg(format!("--user-data-dir={}", folder.join("profile").display()));
    command.current_dir(folder).env("HOME", folder).stderr(Stdio::null());
    command
}

impl Browser {
    pub fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut command = chromium(folder.path());
        let process = command.arg("--remote-debugging-port=0").stdout(Stdio::null()).spawn().unwrap();
        // The port, and the path of the browser's WebSocket.
        let file = folder.path().join("profile/DevToolsActivePort");
        let until = Instant::now() + TIMEOUT;
        let (port, path) = loop {
            let text = fs::read_to_string(&file).unwrap_or_default();
            if let Some((port, path)) = text.split_once('\n').filter(|(_, path)| !path.is_empty()) {
                break (port.parse::<u16>().unwrap(), path.trim().to_owned());
            }
            assert!(Instant::now() < until, "chromium does not start");
            thread::sleep(Duration::from_millis(20));
        };
        let stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
        stream.set_read_timeout(Some(TIMEOUT)).unwrap();
        let (socket, _) = client(format!("ws://127.0.0.1:{port}{path}"), stream).expect("a WebSocket");
        let (session, complaints) = (String::new(), Vec::new());
        let mut browser = Self { process, socket, session, last_id: 0, complaints, _folder: folder };
        let target = browser.call("Target.createTarget", json!({"url": "about:blank"}))["targetId"].take();
        let attached = browser.call("Target.attachToTarget", json!({"targetId": target, "flatten": true}));
        browser.session = attached["sessionId"].as_str().unwrap().to_owned();
        for domain in ["Page", "Runtime", "Log"] {
            browser.call(&format!("{domain}.enable"), json!({}));
        }
        browser.call("Page.setLifecycleEventsEnabled", json!({"enabled": true}));
        browser
    }

    /// Calls a method of the protocol, and returns its result.
    #[track_caller]
    pub fn call(&mut self, method: &str, params: Value) -> Value {
        let id = self.send(method, params);
        loop {
            let mut message = self.next();
            if message["id"] == id {
                assert!(message.get("error").is_none(), "{method}: {message}");
                return message["result"].take();
            }
        }
    }

    fn send(&mut self, method: &str, params: Value) -> u64 {
        self.last_id += 1;
        let mut request = json!({"id": self.last_id, "method": method, "params": params});
        if !self.session.is_empty() {
            request["sessionId"] = self.session.clone().into();
        }
        self.socket.send(Frame::text(request.to_string())).unwrap();
        self.last_id
    }

    fn next(&mut self) -> Value {
        loop {
            let Frame::Text(text) = self.socket.read().expect("chromium answers") else { continue };
            let message: Value = serde_json::from_str(&text).unwrap();
            match message["method"].as_str() {
                Some("Log.entryAdded") => self.complaints.push(message["params"]["entry"]["text"].to_string()),
                Some("Runtime.exceptionThrown") => self.complaints.push(message["params"].to_string()),
                _ => {}
            }
            return message;
        }
    }

    /// Opens a URL, and waits until the page is loaded.
    #[track_caller]
    pub fn open(&mut self, url: &str) {
        let id = self.send("Page.navigate", json!({ "url": url }));
        let (mut loader, mut loaded) = (Value::Null, Vec::new());
        // A page that was left may still be loaded meanwhile.
        while loader.is_null() || !loaded.contains(&loader) {
            let mut message = self.next();
            if message["id"] == id {
                loader = message["result"]["loaderId"].take();
                assert!(loader.is_string(), "{url}: {message}");
            } else if message["method"] == "Page.lifecycleEvent" && message["params"]["name"] == "load" {
                loaded.push(message["params"]["loaderId"].take());
            }
        }
    }

    /// The value of an expression in the page, also of a promise. It runs as if a person had clicked.
    #[track_caller]
    pub fn eval(&mut self, expression: &str) -> Value {
        let params =
            json!({"expression": expression, "awaitPromise": true, "returnByValue": true, "userGesture": true});
        let mut result = self.call("Runtime.evaluate", params);
        assert!(result.get("exceptionDetails").is_none(), "{expression}: {result}");
        result["result"]["value"].take()
    }

    /// Waits until an expression in the page is true. The page may load another one meanwhile.
    #[track_caller]
    pub fn wait_for(&mut self, expression: &str) {
        let until = Instant::now() + TIMEOUT;
        loop {
            let params = json!({"expression": expression, "returnByValue": true});
            if self.call("Runtime.evaluate", params)["result"]["value"] == true {
                return;
            }
            assert!(Instant::now() < until, "never true: {expression}\n{}", self.text());
            thread::sleep(Duration::from_millis(50));
        }
    }

    /// What a person reads on the page.
    pub fn text(&mut self) -> String {
        self.eval("document.body.innerText").as_str().unwrap_or_default().to_owned()
    }

    /// Presses a key, such as `Tab` or `Enter`.
    pub fn press(&mut self, key: &str) {
        let text = if key == "Enter" { "\r" } else { "" };
        let code = match key {
            "Tab" => 9,
            "Enter" => 13,
            other => panic!("{other}"),
        };
        let mut event =
            json!({"type": "keyDown", "key": key, "code": key, "windowsVirtualKeyCode": code, "text": text});
        self.call("Input.dispatchKeyEvent", event.clone());
        event["type"] = "keyUp".into();
        self.call("Input.dispatchKeyEvent", event);
    }

    /// Shows pages at this width, with this colour scheme: `light` or `dark`.
    pub fn look(&mut self, width: u32, scheme: &str) {
        let size = json!({"width": width, "height": 844, "deviceScaleFactor": 1, "mobile": false});
        self.call("Emulation.setDeviceMetricsOverride", size);
        let features = json!({"features": [{"name": "prefers-color-scheme", "value": scheme}]});
        self.call("Emulation.setEmulatedMedia", features);
    }

    /// Switches scripts of pages off or on.
    pub fn set_scripts(&mut self, are_on: bool) {
        self.call("Emulation.setScriptExecutionDisabled", json!({"value": !are_on}));
    }

    /// Saves a picture of the whole page.
    pub fn screenshot(&mut self, file: &Path) {
        let picture = self.call("Page.captureScreenshot", json!({"captureBeyondViewport": true, "format": "png"}));
        fs::write(file, STANDARD.decode(picture["data"].as_str().unwrap()).unwrap()).unwrap();
    }

    /// Checks what every page has to have: it does not scroll sideways, its colours have the contrast of WCAG 2.1 AA, each
    /// field and picture has a name, and the browser complained about nothing.
    #[track_caller]
    pub fn check_page(&mut self) {
        let problems = self.eval(CHECK);
        assert_eq!(problems, json!([]), "{}", self.text());
        assert!(self.complaints.is_empty(), "{:#?}", self.complaints);
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Lists what is wrong with a page.
const CHECK: &str = r#"(() => {
    const problems = [];
    const root = document.documentElement;
    if (root.scrollWidth > root.clientWidth) problems.push(`scrolls sideways: ${root.scrollWidth} > ${root.clientWidth}`);
    if (!root.lang || !document.title || document.querySelectorAll("h1").length != 1 || !document.querySelector("main"))
        problems.push("lacks lang, title, main or its one h1");
    const numbers = color => color.match(/[\d.]+/g).map(Number);
    const luminance = color => {
        const [r, g, b] = numbers(color).map(v => (v /= 255) <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
        return 0.2126 * r + 0.7152 * g + 0.0722 * b;
    };
    const background = element => {
        for (let at = element; at; at = at.parentElement) {
            const color = getComputedStyle(at).backgroundColor;
            if ((numbers(color)[3] ?? 1) > 0) return color;
        }
        return matchMedia("(prefers-color-scheme: dark)").matches ? "rgb(18, 18, 18)" : "rgb(255, 255, 255)";
    };
    for (const element of document.querySelectorAll("body *")) {
        const isText = [...element.childNodes].some(node => node.nodeType == 3 && node.data.trim());
        if (!isText || !element.checkVisibility() || element.closest("svg, script, style")) continue;
        const [a, b] = [luminance(getComputedStyle(element).color), luminance(background(element))].sort((a, b) => b - a);
        const contrast = (a + 0.05) / (b + 0.05);
        if (contrast < 4.5) problems.push(`contrast ${contrast.toFixed(1)}: ${element.outerHTML.slice(0, 80)}`);
    }
    for (const element of document.querySelectorAll("input:not([type=hidden]), select, textarea, button, a, [role=img]")) {
        const name = element.getAttribute("aria-label") || element.textContent.trim() || [...(element.labels ?? [])].join("");
        if (!name) problems.push(`has no name: ${element.outerHTML.slice(0, 80)}`);
    }
    return problems;
})()"#;
