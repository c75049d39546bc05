//! Who may use the API, and which settings of the API and the webhook are refused at start.

use std::{
    fs::{self, File},
    io::{Read, Write},
    os::{
        fd::AsRawFd,
        unix::{fs::PermissionsExt, net::UnixStream, process::CommandExt},
    },
    path::Path,
    thread,
};

use crate::{
    api_client::ApiClient,
    daemon::{Daemon, free_port, write_with_mode},
    home::{Home, softhsm_module},
    reload::{change_and_reload, wait_for_log_line},
};

const TOKEN: &str = "a-token-of-this-test-0123456789abcdef";
const NOBODY: u32 = 65534;

/// Asks for the status as another user. Returns the response, empty if the connection was closed.
fn status_as(user: u32, socket: &Path) -> String {
    request_as(user, socket, "GET /v1/status")
}

/// Sends a request without a body as another user. Returns the response, empty if the connection was closed.
fn request_as(user: u32, socket: &Path, request: &str) -> String {
    let (socket, request) = (socket.to_owned(), format!("{request} HTTP/1.0\r\nhost: x\r\n\r\n"));
    let request = thread::spawn(move || {
        // SAFETY: the system call takes numbers only. It changes this thread alone, which ends after the request;
        // glibc's function of that name would change the whole process.
        let changed = unsafe { libc::syscall(libc::SYS_setresuid, -1, user, -1) };
        assert_eq!(changed, 0);
        let mut stream = UnixStream::connect(socket).unwrap();
        let mut response = String::new();
        // The connection may be closed already.
        let _ = stream.write_all(request.as_bytes());
        let _ = stream.read_to_string(&mut response);
        response
    });
    request.join().unwrap()
}

#[test]
fn a_unix_socket_serves_only_the_listed_users() {
    if !rustix::process::geteuid().is_root() {
        println!("skipped: only root can be another user");
        return;
    }
    // Other users cannot enter the state folder, so the socket is in a folder that they can enter.
    let open = tempfile::tempdir().unwrap();
    fs::set_permissions(open.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let socket = open.path().join("api.sock");
    let listen = format!("[api]\nlisten = \"unix:{}\"\n", socket.display());
    let Some(mut alice) = Daemon::running(&listen) else { return };
    assert_eq!(status_as(NOBODY, &socket), "");
    assert!(alice.log().contains("API connection refused"), "{}", alice.log());
    // Any user can cause these lines, so there is one in a minute.
    assert_eq!(status_as(NOBODY, &socket), "");
    assert_eq!(alice.log().matches("WARN API connection refused").count(), 1, "{}", alice.log());
    // The command of that user says what to do. The user may not reach the program by its path.
    let (program, config) = (File::open(claviger_testkit::program!()).unwrap(), open.path().join("claviger.toml"));
    fs::write(&config, &listen).unwrap();
    let mut command = alice.home.command(&format!("/proc/self/fd/{}", program.as_raw_fd()));
    command.current_dir(open.path()).uid(NOBODY).arg("--config").arg(&config).arg("status");
    let refused = command.output().unwrap();
    let error = String::from_utf8(refused.stderr).unwrap();
    assert!(error.contains("`users` in [api], or as an [[api.user]]"), "{error}");
    assert!(status_as(0, &socket).starts_with("HTTP/1.0 200"));
    // The refused connection has not disturbed the agent.
    assert!(alice.json(&["status"])["status"]["token_ready"].as_bool().unwrap());
    alice.stop();

    let config = fs::read_to_string(alice.home.path().join("claviger.toml")).unwrap();
    alice
        .home
        .write("claviger.toml", &format!("{config}\n").replace("[api]\n", &format!("[api]\nusers = [\"{NOBODY}\"]\n")));
    alice.start();
    assert!(status_as(NOBODY, &socket).starts_with("HTTP/1.0 200"));
    assert_eq!(status_as(NOBODY - 1, &socket), "");
    assert!(request_as(NOBODY, &socket, "POST /v1/dids/reload").starts_with("HTTP/1.0 200"));

    // The user keeps one scope, at once.
    let before = alice.log().len();
    let user = format!("[[api.user]]\nname = \"{NOBODY}\"\nscopes = [\"read\"]\n");
    let listen = listen.strip_prefix("[api]\n").unwrap();
    change_and_reload(&alice, &format!("users = [\"{NOBODY}\"]\n{listen}"), &format!("{listen}{user}"));
    wait_for_log_line(&alice, before, &["configuration reloaded", "api.user", "api.users"]);
    assert!(status_as(NOBODY, &socket).starts_with("HTTP/1.0 200"));
    let refused = request_as(NOBODY, &socket, "POST /v1/dids/reload");
    assert!(refused.starts_with("HTTP/1.0 403") && refused.contains("scope-missing"), "{refused}");
    assert!(refused.contains(&format!("the user \\\"{NOBODY}\\\" has no scope \\\"manage\\\"")), "{refused}");
    let before = alice.log().len();
    change_and_reload(&alice, &user, "");
    wait_for_log_line(&alice, before, &["configuration reloaded", "api.user"]);
    assert_eq!(status_as(NOBODY, &socket), "");
    assert!(status_as(0, &socket).starts_with("HTTP/1.0 200"));
}

#[test]
fn a_loopback_socket_requires_the_bearer_token_and_a_local_host() {
    let port = free_port();
    let Some(mut alice) = Daemon::new(&format!("[api]\nlisten = \"127.0.0.1:{port}\"\ntoken_file = \"api.token\"\n"))
    else {
        return;
    };
    write_with_mode(&alice.home, "api.token", &format!("{TOKEN}\nonly the first line is the token\n"), 0o600);
    alice.start();
    let api = ApiClient::Loopback(port);
    let bearer = format!("authorization: Bearer {TOKEN}\r\n");
    let ask = |headers: &str| api.request("GET", "/v1/status", headers, "");

    for (scheme, good) in
        [("Bearer", "127.0.0.1"), ("bearer", "localhost"), ("BEARER", "[::1]:80"), ("Bearer", "127.1.2.3:9")]
    {
        let answer = ask(&format!("host: {good}\r\nauthorization: {scheme} {TOKEN}\r\n"));
        assert_eq!(answer.json(200)["token_ready"], true, "{good}");
    }
    let short = &TOKEN[..TOKEN.len() - 1];
    for wrong in [
        "",
        "authorization: Bearer\r\n",
        &format!("authorization: Bearer {short}\r\n"),
        &format!("authorization: Bearer {TOKEN}x\r\n"),
        &format!("authorization: Basic {TOKEN}\r\n"),
        &format!("authorization: {TOKEN}\r\n"),
        &format!("cookie: token={TOKEN}\r\n"),
        "authorization: Bearer \u{e4}\r\n",
    ] {
        let answer = ask(wrong);
        assert_eq!(answer.error(401), "unauthorized", "{wrong}");
        assert_eq!(answer.header("www-authenticate").as_deref(), Some("bearer"));
        assert!(!answer.body.contains(short));
    }
    // Without the token, nobody learns which paths and methods exist.
    assert_eq!(api.get("/nothing").error(401), "unauthorized");
    assert_eq!(api.request("PUT", "/v1/status", "", "").error(401), "unauthorized");
    assert_eq!(api.get("/openapi.json").error(401), "unauthorized");

    for foreign in
        ["example.org", "127.0.0.1.nip.io", "localhost.example.org", "192.168.0.1", "[::2]", "localhost@evil", ""]
    {
        assert_eq!(ask(&format!("host: {foreign}\r\n{bearer}")).error(403), "not-local", "{foreign}");
    }
    for origin in ["http://localhost", &format!("http://127.0.0.1:{port}"), "https://example.org", "null"] {
        assert_eq!(ask(&format!("origin: {origin}\r\n{bearer}")).error(403), "not-local", "{origin}");
    }
    // The program's own commands read the token from the file in the configuration.
    assert_eq!(alice.json(&["status"])["status"]["token_ready"], true);
    assert!(!alice.log().contains(TOKEN), "{}", alice.log());
}

/// `serve --check` exits with status 2, names what is wrong, and prints no secret.
#[test]
fn insecure_api_and_webhook_settings_are_refused_at_start() {
    let Some(home) = Home::with_token() else { return };
    home.create_did("--method peer:2");
    for (name, text, mode) in [
        ("good", TOKEN, 0o600),
        ("other", "another-token-of-this-test-0123456789", 0o600),
        ("third", "a-third-token-of-this-test-0123456789abc", 0o600),
        ("short", "0123456789abcdef0123456789abcde", 0o600),
        ("blank", "a token of many words that has blanks, and is long enough", 0o600),
        ("empty", "", 0o600),
        ("for-all", TOKEN, 0o644),
        ("for-the-group", TOKEN, 0o640),
    ] {
        write_with_mode(&home, name, text, mode);
    }
    let on = |address: &str, token: &str| format!("[api]\nlisten = \"{address}\"\ntoken_file = \"{token}\"\n");
    let hook = |url: &str, more: &str| format!("[api.webhook]\nurl = \"{url}\"\n{more}\n");
    let token = |name: &str, file: &str, scopes: &str| {
        format!("[[api.token]]\nname = \"{name}\"\nfile = \"{file}\"\nscopes = [{scopes}]\n")
    };
    let tokens = |more: &str| on("127.0.0.1:0", "good") + more;
    let user = |name: &str, scopes: &str| format!("[[api.user]]\nname = \"{name}\"\nscopes = [{scopes}]\n");
    let client = |name: &str| format!("[[api.client]]\nname = \"{name}\"\nscopes = [\"read\"]\n");
    let local = "http://127.0.0.1:9/hook";
    let hooks = |name: &str, second: &str| {
        let table = |name: &str| format!("[[api.webhook]]\nurl = \"{local}\"\nsecret_file = \"good\"\n{name}\n");
        table(&format!("name = {name}")) + &table(second)
    };
    let refused = [
        (on("127.0.0.1:0", "short"), "32 characters or more"),
        (on("127.0.0.1:0", "blank"), "32 characters or more"),
        (on("127.0.0.1:0", "empty"), "32 characters or more"),
        (on("127.0.0.1:0", "for-all"), "others may read the file: chmod 600"),
        (on("127.0.0.1:0", "for-the-group"), "others may read the file: chmod 600"),
        (on("127.0.0.1:0", "no-such-file"), "No such file"),
        (on("0.0.0.0:0", "good"), "not an address of the loopback interface"),
        (on("[::]:0", "good"), "not an address of the loopback interface"),
        (on("192.0.2.1:80", "good"), "not an address of the loopback interface"),
        (on("localhost", "good"), "neither unix:PATH nor an address"),
        ("[api]\nlisten = \"127.0.0.1:0\"\n".to_owned(), "has no token_file"),
        ("[api]\ntoken = \"x\"\n".to_owned(), "token"),
        (tokens(&token("a", "other", "")), "the token \"a\" has no scope"),
        (tokens(&token("", "other", "\"read\"")), "a token has an empty name"),
        (tokens(&token("a", "other", "\"read\", \"write\"")), "\"write\" is not a valid value"),
        (tokens(&token("a", "good", "\"read\"")), "the tokens \"token_file\" and \"a\" are the same"),
        (tokens(&token("a", "other", "\"read\"").repeat(2)), "two tokens have the name \"a\""),
        (tokens(&token("a", "for-all", "\"read\"")), "others may read the file: chmod 600"),
        (tokens(&token("a", "no-such-file", "\"read\"")), "No such file"),
        (tokens("[[api.token]]\nname = \"a\"\nscopes = [\"read\"]\n"), "the setting \"file\" is missing"),
        (tokens("[[api.token]]\nname = \"a\"\nfile = \"other\"\n"), "the setting \"scopes\" is missing"),
        (tokens(&user("65534", "\"read\"")), "[[api.user]] is for the Unix socket"),
        (token("a", "other", "\"read\""), "[[api.token]] is for the loopback interface"),
        (user("65534", ""), "the user \"65534\" has no scope"),
        (user("65534", "\"read\"") + &user("65534", "\"send\""), "two users have the name \"65534\""),
        (user("nobody", "\"read\"") + &user("65534", "\"send\""), "the users \"nobody\" and \"65534\" are the same"),
        (user("root", "\"read\""), "root and the agent's user may use the whole API"),
        ("[api]\nusers = [\"65534\"]\n".to_owned() + &user("nobody", "\"read\""), "are the same"),
        (client("app.example.org"), "[api.remote], which is not configured"),
        (hook("http://example.org/", "secret_file = \"good\""), "in clear text"),
        (hook("https://me:word@example.org/", "secret_file = \"good\""), "a user name"),
        (hook("mailto:me@example.org", "secret_file = \"good\""), "no valid https URL"),
        (hook("https://example.org:99999/", "secret_file = \"good\""), "no valid https URL"),
        (hook(local, "secret_file = \"short\""), "32 characters or more"),
        (hook(local, "secret_file = \"for-all\""), "others may read the file: chmod 600"),
        (hook(local, ""), "secret_file"),
        (hook(local, "secret_file = \"good\"\nsecret = \"x\""), "secret"),
        (hook(local, "secret_file = \"good\"\nname = \"a b\""), "letters, digits"),
        (hook(local, "secret_file = \"good\"\nevents = [\"message.read\"]"), "message.sent"),
        (hook(local, "secret_file = \"good\"\nevents = []"), "events in [[api.webhook]] \"webhook\" is empty"),
        (hook(local, "secret_file = \"good\"\nrefused_attempts = 0"), "refused_attempts"),
        (hooks("\"a\"", ""), "has no `name`"),
        (hooks("\"a\"", "name = \"a\""), "two [[api.webhook]] have the name"),
    ];
    for (config, message) in refused {
        home.configure(&softhsm_module().unwrap(), &config);
        let output = home.run("--json serve --check");
        assert_eq!(output.error(2), "bad-config", "{config}");
        // The message is in JSON.
        assert!(output.stderr().replace("\\\"", "\"").contains(message), "{config}\n{}", output.stderr());
        assert!(!output.stderr().contains(TOKEN) && !output.stderr().contains("word"), "{}", output.stderr());
    }
    // The operator names the webhook, so it may have a private address.
    for good in [
        on("127.0.0.1:0", "good"),
        on("[::1]:0", "good"),
        tokens(&(token("a", "other", "\"read\", \"send\"") + &token("b", "third", "\"manage\""))),
        user("65534", "\"read\", \"manage\""),
        hook("https://example.org/", "secret_file = \"good\""),
        hook("https://10.0.0.1/", "secret_file = \"good\""),
        hook(local, "secret_file = \"good\""),
        hooks("\"a\"", "name = \"b\"\nevents = [\"message.failed\"]"),
    ] {
        home.configure(&softhsm_module().unwrap(), &good);
        let output = home.run("--json serve --check");
        // The machine may have no IPv6.
        assert!(output.status() == 0 || good.contains("::1"), "{good}\n{}", output.stderr());
    }
}
