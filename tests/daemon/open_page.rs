//! `claviger open`: the agent's own page in a real browser, and who may use it.

use std::{
    io::{BufRead, BufReader},
    os::unix::process::CommandExt,
    process::{Child, Command, Stdio},
};

use serde_json::{Value, json};

use crate::{
    api_client::ApiClient,
    chromium::{Browser, WIDTHS, are_installed},
    daemon::{Daemon, http, status_of},
    invitation_pages::save_picture,
    peer::Peer,
};

/// A running `claviger open`.
struct OpenPage {
    process: Child,
    link: String,
    port: u16,
}

impl OpenPage {
    fn start(daemon: &Daemon) -> Self {
        let mut command = daemon.home.command(&claviger_testkit::program!());
        let mut process = command.args(["--json", "open"]).stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(process.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let printed: Value = serde_json::from_str(&line).unwrap();
        let link = printed["url"].as_str().unwrap().to_owned();
        let port = link["http://127.0.0.1:".len()..].split('/').next().unwrap().parse().unwrap();
        Self { process, link, port }
    }

    fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.port)
    }

    /// Sends a request with these headers, each ended by CR LF. Returns the answer with its head.
    fn request(&self, method: &str, path: &str, headers: &str, body: &str) -> String {
        let host = if headers.contains("host:") { String::new() } else { format!("host: 127.0.0.1:{}\r\n", self.port) };
        let kind = if body.is_empty() { "" } else { "content-type: application/x-www-form-urlencoded\r\n" };
        let length = body.len();
        let head = format!(
            "{method} {path} HTTP/1.1\r\n{host}{headers}{kind}content-length: {length}\r\nconnection: close\r\n\r\n"
        );
        http(self.port, &head, body.as_bytes())
    }
}

impl Drop for OpenPage {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[test]
fn the_agents_page_shows_everything_and_changes_what_the_api_changes() {
    if !are_installed(&["chromium"]) {
        return;
    }
    let Some(alice) = Daemon::running("") else { return };
    let api = ApiClient::new(&alice);
    let (bob, mallory) = (Peer::new("bob"), Peer::new("mallory"));
    let hostile = "<img src=x onerror=alert(1)>\u{202e}evil";
    alice.post(bob.pack_text(&alice.did, "Lunch at noon?").as_bytes());
    alice.post(mallory.pack_text(&alice.did, hostile).as_bytes());
    alice.wait_until("the messages arrived", |alice| alice.unread_texts().len() == 2);
    alice.json(&["connections", "label", bob.did(), "Bob"]);
    // A peer that nobody serves: the message waits, with a reason.
    let away = Daemon::new("").unwrap();
    let queued = alice.json(&["send", "--to", &away.did, "Are you there?"]);
    let queued = queued["id"].as_str().unwrap();
    alice.json(&["connections", "label", &away.did, "Carol"]);
    alice.json(&["invite", "--goal", "Lunch <b>at noon</b>?"]);
    let entry = |id: &str| alice.outbox_message(id);
    assert_eq!(status_of(&alice.post(&vec![b'x'; 1_000_001])), 413);
    alice.wait_until("an attempt failed", |_| entry(queued)["problem"].is_string());

    let page = OpenPage::start(&alice);
    let mut browser = Browser::start();
    browser.open(&page.link);
    browser.wait_for("location.pathname == '/' && document.title.startsWith('Overview')");
    let pages = [
        (
            "/",
            "Overview",
            &[
                "1 of 1 token ready",
                "Received messages are opened",
                "to be read",
                "to be sent",
                "messages refused: too large",
            ][..],
        ),
        ("/inbox", "Inbox", &["Bob", "Lunch at noon?", "<img src=x onerror=alert(1)>\u{fffd}evil", "Reply", "Delete"]),
        ("/outbox", "Outbox", &["To Carol", "Waits for the peer", "next try in", "Try now", "Cancel"]),
        ("/contacts", "Contacts", &["Bob", "Since", "Change", "Write"]),
        ("/invitations", "Invitations", &["Lunch <b>at noon</b>?", "open, for one person", "_oobid=", "Revoke"]),
        ("/dids", "DIDs", &["encrypts", "signs", "Mediators"]),
        ("/tokens", "Tokens", &["soft", "ready", "Custody", "Opening a message", "took at most"]),
    ];
    for (path, title, expected) in pages {
        for width in WIDTHS {
            for scheme in ["light", "dark"] {
                browser.look(width, scheme);
                browser.open(&page.url(path));
                browser.check_page();
                let name = if path == "/" { "overview" } else { &path[1..] };
                if scheme == "light" || name == "overview" {
                    save_picture(&mut browser, &format!("page-{name}-{width}-{scheme}.png"));
                }
            }
        }
        let text = browser.text();
        assert!(text.contains(title), "{path}: {text}");
        for expected in expected {
            assert!(text.contains(expected), "{path}: {expected}: {text}");
        }
        assert!(!text.contains('\u{202e}'), "{path}");
    }

    // By keyboard: the first stop leads past the navigation.
    browser.open(&page.url("/inbox"));
    browser.press("Tab");
    assert_eq!(browser.eval("document.activeElement.textContent"), "To the content");
    browser.press("Enter");
    browser.wait_for("location.hash == '#content'");

    // Without scripts the pages are whole, and forms work.
    browser.set_scripts(false);
    browser.open(&page.url("/outbox"));
    browser.set_scripts(true);
    assert!(browser.text().contains("UTC"), "{}", browser.text());

    let submit = |browser: &mut Browser, path: &str, within: &str, action: &str, fields: &[(&str, &str)]| {
        browser.open(&page.url(path));
        let fields = json!(fields);
        browser.eval(&format!(
            "{{ const card = [...document.querySelectorAll('main li, main details')]
                    .find(it => it.innerText.includes({within:?}) || it.textContent.includes({within:?}));
                const form = (card ?? document).querySelector('form[action=\"{action}\"]');
                for (const [name, value] of {fields}) form.elements[name].value = value;
                form.querySelector('button').click(); }}"
        ));
        browser.wait_for("location.search.startsWith('?done=')");
        browser.wait_for("document.querySelector('[role=status]') != null");
    };
    submit(&mut browser, "/outbox", "Waits for", "/outbox/retry", &[]);
    submit(&mut browser, "/outbox", "Waits for", "/outbox/cancel", &[]);
    assert_eq!(entry(queued)["state"], "cancelled");
    submit(&mut browser, "/contacts", "Bob", "/contacts/label", &[("label", "Robert")]);
    submit(&mut browser, "/inbox", "Lunch at noon?", "/inbox/reply", &[("text", "At noon.\nSee you & <b>bye</b>")]);
    let sent = api.get("/v1/messages?limit=1000").json(200);
    let reply = sent["messages"].as_array().unwrap().iter().rev().find(|it| it["to"] == bob.did());
    assert!(reply.is_some_and(|it| it["from"] == alice.did.as_str()), "{sent:#}");
    submit(&mut browser, "/inbox", "Lunch at noon?", "/inbox/acknowledge", &[]);
    assert_eq!(alice.unread_texts().len(), 1);
    submit(&mut browser, "/invitations", "Invite somebody", "/invitations/create", &[("goal", "Tea"), ("hours", "2")]);
    submit(&mut browser, "/invitations", "Lunch <b>at noon", "/invitations/revoke", &[]);
    let invitations = api.get("/v1/invitations").json(200);
    let goals: Vec<&Value> =
        invitations["invitations"].as_array().unwrap().iter().map(|it| &it["invitation"]["body"]["goal"]).collect();
    assert_eq!(goals, ["Tea"]);
    submit(&mut browser, "/contacts", "Robert", "/contacts/block", &[]);
    let blocked = api.get("/v1/blocked").json(200);
    assert!(blocked.to_string().contains(bob.did()), "{blocked:#}");

    // What the API refuses is said in its words.
    browser.open(&page.url("/invitations"));
    browser.eval(
        "{ const form = document.querySelector('form[action=\"/invitations/accept\"]');
           form.elements.invitation.value = 'https://example.org/?_oob=x'; form.querySelector('button').click(); }",
    );
    browser.wait_for("document.querySelector('[role=alert]') != null");
    assert!(browser.text().contains("_oob"), "{}", browser.text());
    assert!(browser.complaints.iter().all(|it| it.contains("status of 400")), "{:#?}", browser.complaints);
}

/// Only the user of the command, in the browser that opened the link, gets anything.
#[test]
fn nobody_else_uses_the_agents_page() {
    let Some(alice) = Daemon::running("") else { return };
    let page = OpenPage::start(&alice);
    let link = page.link.strip_prefix(&page.url("")).unwrap().to_owned();
    for (path, headers) in
        [("/", ""), ("/open", ""), ("/open?key=", ""), ("/open?key=0", ""), (&*link, "host: evil.example\r\n")]
    {
        assert_eq!(status_of(&page.request("GET", path, headers, "")), 403, "{path}");
    }
    let opened = page.request("GET", &link, "", "");
    assert_eq!(status_of(&opened), 200, "{opened}");
    let head = opened.to_lowercase();
    let cookie = head.lines().find_map(|line| line.strip_prefix("set-cookie: ")).expect("a cookie");
    assert!(cookie.contains("httponly") && cookie.contains("samesite=strict"), "{cookie}");
    for header in
        ["content-security-policy: default-src 'none';", "cache-control: no-store", "x-content-type-options: nosniff"]
    {
        assert!(head.contains(header), "{head}");
    }
    assert!(!head.contains("unsafe-inline"), "{head}");
    let cookie = format!("cookie: a=b; {}\r\n", cookie.split(';').next().unwrap());
    // The link works once.
    assert_eq!(status_of(&page.request("GET", &link, "", "")), 403);
    let inbox = page.request("GET", "/invitations", &cookie, "");
    assert_eq!(status_of(&inbox), 200, "{inbox}");
    let rebound = format!("{cookie}host: evil.example:{}\r\n", page.port);
    assert_eq!(status_of(&page.request("GET", "/", &rebound, "")), 403);

    // CSRF: a form needs our origin and our token.
    let token = inbox.split("name=\"form_token\" value=\"").nth(1).unwrap().split('"').next().unwrap();
    let ours = format!("origin: http://127.0.0.1:{}\r\n", page.port);
    let goal = "goal=Tea&hours=1";
    let form = format!("{goal}&form_token={token}");
    let forged = [
        (format!("{cookie}origin: https://evil.example\r\n"), &*form, 403),
        (format!("{cookie}origin: null\r\n"), &form, 403),
        (cookie.clone(), &form, 403),
        (format!("{cookie}{ours}sec-fetch-site: cross-site\r\n"), &form, 403),
        (ours.clone(), &form, 403),
        (format!("{cookie}{ours}"), goal, 400),
        (format!("{cookie}{ours}"), "form_token=0", 400),
    ];
    for (headers, body, status) in forged {
        assert_eq!(status_of(&page.request("POST", "/invitations/create", &headers, body)), status, "{headers}{body}");
    }
    let api = ApiClient::new(&alice);
    assert_eq!(api.get("/v1/invitations").json(200)["invitations"], json!([]));
    assert_eq!(status_of(&page.request("POST", "/invitations/create", &format!("{cookie}{ours}"), &form)), 303);
    assert_eq!(api.get("/v1/invitations").json(200)["invitations"].as_array().unwrap().len(), 1);

    // Another user has learnt the cookie.
    if rustix::process::geteuid().is_root() {
        let script = format!(
            "exec 3<>/dev/tcp/127.0.0.1/{0}; printf 'GET / HTTP/1.1\\r\\nhost: 127.0.0.1:{0}\\r\\n{1}connection: close\\r\\n\\r\\n' >&3; \
             cat <&3",
            page.port,
            cookie.replace("\r\n", "\\r\\n")
        );
        let run = |uid| {
            let mut command = Command::new("bash");
            let output = command.args(["-c", &script]).current_dir("/").uid(uid).gid(uid).output().unwrap();
            status_of(&String::from_utf8_lossy(&output.stdout))
        };
        assert_eq!((run(0), run(65534)), (200, 403));
    }
}

/// Without an agent the command says so, and listens nowhere.
#[test]
fn the_page_needs_a_running_agent() {
    let Some(alice) = Daemon::new("") else { return };
    assert_eq!(alice.run(&["open", "--no-browser"]).error(1), "agent-away");
}
