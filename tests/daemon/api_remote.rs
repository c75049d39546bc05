//! The API for applications on other machines: TLS with a certificate of the client.

use std::{
    fs,
    io::{self, Read, Write},
    net::TcpStream,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose, RevokedCertParams, SanType, SerialNumber, date_time_ymd,
};
use rustls::{
    ClientConfig, ClientConnection, RootCertStore, StreamOwned, SupportedProtocolVersion,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, PrivateKeyDer},
    version::{TLS12, TLS13},
};
use serde_json::{Value, json};

use crate::{
    api_client::{ApiClient, ApiResponse},
    daemon::{Daemon, TIMEOUT, free_port},
    home::{Home, softhsm_module},
    reload::{change_and_reload, wait_for_log_line},
};

type TlsConnection = StreamOwned<ClientConnection, TcpStream>;

/// A certificate authority.
struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: CertificateDer<'static>,
    pem: String,
}

impl Authority {
    fn new() -> Self {
        Self::named("Our applications")
    }

    fn named(name: &str) -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap();
        Self { pem: certificate.pem(), certificate: certificate.der().clone(), issuer: Issuer::new(params, key) }
    }

    /// Writes the certificate of a server on this machine, its key and the authority's own certificate.
    fn write_server_files(&self, folder: &Path) {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(["localhost".to_owned()]).unwrap();
        fs::write(folder.join("server.pem"), params.signed_by(&key, &self.issuer).unwrap().pem()).unwrap();
        fs::write(folder.join("server.key"), key.serialize_pem()).unwrap();
        fs::write(folder.join("clients.pem"), &self.pem).unwrap();
    }

    /// A list of the revoked certificates.
    fn revocation_list(&self, serial_numbers: &[u64]) -> String {
        let revoked = |serial: &u64| RevokedCertParams {
            serial_number: SerialNumber::from(*serial),
            revocation_time: date_time_ymd(2024, 6, 17),
            reason_code: None,
            invalidity_date: None,
        };
        let params = CertificateRevocationListParams {
            this_update: date_time_ymd(2024, 6, 17),
            next_update: date_time_ymd(2124, 6, 17),
            crl_number: SerialNumber::from(1),
            issuing_distribution_point: None,
            revoked_certs: serial_numbers.iter().map(revoked).collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        params.signed_by(&self.issuer).unwrap().pem().unwrap()
    }
}

/// The parameters of a client's certificate with these names.
fn named(names: &[&str]) -> CertificateParams {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.subject_alt_names = names
        .iter()
        .map(|name| match name.contains(':') {
            true => SanType::URI(name.to_string().try_into().unwrap()),
            false => SanType::DnsName(name.to_string().try_into().unwrap()),
        })
        .collect();
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    params
}

/// An application on another machine.
struct Application {
    tls: Arc<ClientConfig>,
    port: u16,
}

impl Application {
    /// An application with a certificate of this authority. It trusts the server of the other one.
    fn new(port: u16, server: &Authority, client: &Authority, params: CertificateParams) -> Self {
        let key = KeyPair::generate().unwrap();
        let chain = vec![params.signed_by(&key, &client.issuer).unwrap().der().clone()];
        Self::with(port, server, &[&TLS13], Some((chain, PrivateKeyDer::try_from(key.serialize_der()).unwrap())))
    }

    fn with(
        port: u16,
        server: &Authority,
        versions: &[&'static SupportedProtocolVersion],
        own: Option<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)>,
    ) -> Self {
        let mut roots = RootCertStore::empty();
        roots.add(server.certificate.clone()).unwrap();
        let builder = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_protocol_versions(versions)
            .unwrap()
            .with_root_certificates(roots);
        let tls = match own {
            Some((chain, key)) => builder.with_client_auth_cert(chain, key).unwrap(),
            None => builder.with_no_client_auth(),
        };
        Self { tls: Arc::new(tls), port }
    }

    /// Connects, and finishes the client's side of the handshake.
    fn connect(&self) -> io::Result<TlsConnection> {
        let mut socket = TcpStream::connect(("127.0.0.1", self.port))?;
        socket.set_read_timeout(Some(TIMEOUT))?;
        let mut connection = ClientConnection::new(self.tls.clone(), "localhost".try_into().unwrap()).unwrap();
        while connection.is_handshaking() {
            connection.complete_io(&mut socket)?;
        }
        Ok(StreamOwned::new(connection, socket))
    }

    /// The error with which the server ends the connection. It comes before any request.
    #[track_caller]
    fn refusal(&self) -> String {
        let read = self.connect().and_then(|mut connection| connection.read(&mut [0]));
        read.expect_err("the server refuses the certificate").to_string()
    }

    #[track_caller]
    fn request(&self, method: &str, path: &str, headers: &str, body: &str) -> ApiResponse {
        let mut connection = self.connect().unwrap();
        send(&mut connection, method, path, &format!("connection: close\r\n{headers}"), body);
        let mut text = String::new();
        let _ = connection.read_to_string(&mut text);
        ApiResponse::read(&text).unwrap_or_else(|| panic!("no answer: {text}"))
    }

    #[track_caller]
    fn get(&self, path: &str) -> ApiResponse {
        self.request("GET", path, "", "")
    }

    /// Opens a stream of events.
    #[track_caller]
    fn events(&self) -> TlsConnection {
        let mut connection = self.connect().unwrap();
        write!(connection, "GET /v1/events HTTP/1.0\r\nhost: agent.example.org\r\n\r\n").unwrap();
        read_until(&mut connection, "text/event-stream");
        connection
    }
}

fn send(connection: &mut TlsConnection, method: &str, path: &str, headers: &str, body: &str) {
    let length = body.len();
    let head = format!(
        "{method} {path} HTTP/1.1\r\nhost: agent.example.org:1\r\ncontent-type: application/json\r\ncontent-length: \
         {length}\r\n{headers}\r\n{body}"
    );
    connection.write_all(head.as_bytes()).unwrap();
}

#[track_caller]
fn read_until(connection: &mut TlsConnection, text: &str) {
    let (mut all, mut buffer) = (Vec::new(), [0; 4096]);
    while !String::from_utf8_lossy(&all).contains(text) {
        let read = connection.read(&mut buffer).unwrap();
        assert_ne!(read, 0, "no {text:?} in {}", String::from_utf8_lossy(&all));
        all.extend_from_slice(&buffer[..read]);
    }
}

/// Whether the server closes the connection, after what it has sent already.
fn ends(connection: &mut TlsConnection) -> bool {
    let mut buffer = [0; 4096];
    loop {
        match connection.read(&mut buffer) {
            Ok(0) => return true,
            Ok(_) => {}
            // A timeout of the test would be `WouldBlock`.
            Err(error) => return error.kind() != io::ErrorKind::WouldBlock,
        }
    }
}

/// An agent whose API is also served on a port for other machines. The clients are a reader with a DNS name, and one with a
/// URI that has all scopes.
fn agent_with_remote_api(authority: &Authority, more: &str) -> Option<(Daemon, u16)> {
    let port = free_port();
    let config = format!(
        "[api.remote]\nlisten = \"127.0.0.1:{port}\"\ntls_certificate = \"server.pem\"\ntls_key = \"server.key\"\n\
         client_ca = \"clients.pem\"\n{more}\n[[api.client]]\nname = \"Reader.example.org\"\nscopes = [\"read\"]\n\
         [[api.client]]\nname = \"urn:example:app\"\nscopes = [\"read\", \"send\", \"manage\"]\n"
    );
    let agent = Daemon::new(&config)?;
    authority.write_server_files(agent.home.path());
    Some((agent, port))
}

#[test]
fn a_client_needs_a_trusted_certificate_with_a_listed_name() {
    let (ours, others, forged) = (Authority::new(), Authority::named("Others"), Authority::new());
    let Some((mut agent, port)) = agent_with_remote_api(&ours, "") else { return };
    agent.start();
    let application = |params| Application::new(port, &ours, &ours, params);

    let reader = application(named(&["other.example.org", "reader.EXAMPLE.org"]));
    let status = reader.get("/v1/status").json(200);
    assert!(status["listens"].as_array().unwrap().contains(&json!(format!("127.0.0.1:{port}"))), "{status}");
    let refused = reader.request("POST", "/v1/messages", "", "{}");
    assert_eq!(refused.error(403), "scope-missing");
    assert!(
        refused.body.contains("the client \\\"Reader.example.org\\\" has no scope \\\"send\\\""),
        "{}",
        refused.body
    );

    let app = application(named(&["urn:example:app"]));
    app.request("POST", "/v1/dids/reload", "", "").json(200);
    let message = json!({ "to": agent.did, "from": agent.did, "type": "https://example.org/x/1.0/y" });
    app.request("POST", "/v1/messages", "", &message.to_string()).json(202);
    assert_eq!(app.request("POST", "/v1/messages", "", &"x".repeat(2_100_000)).error(413), "bad-request");
    for origin in ["https://agent.example.org", "null"] {
        assert_eq!(app.request("GET", "/v1/status", &format!("origin: {origin}\r\n"), "").error(403), "not-local");
    }

    // Names are compared as a whole. The name in the subject does not count.
    let mut subject = named(&[]);
    subject.distinguished_name.push(DnType::CommonName, "urn:example:app");
    for (params, names) in [
        (named(&["stranger.example.org"]), "stranger.example.org"),
        (named(&["*.example.org"]), "*.example.org"),
        (named(&["a.reader.example.org", "urn:example:app2"]), "urn:example:app2"),
        (named(&["urn:example:APP"]), "urn:example:APP"),
        (subject, "neither a DNS name nor a URI"),
    ] {
        let unknown = application(params);
        let answer = unknown.get("/v1/status");
        assert_eq!(answer.error(403), "client-unknown", "{names}");
        assert!(answer.body.contains(names), "{}", answer.body);
        assert_eq!(unknown.get("/openapi.json").error(403), "client-unknown");
    }
    agent.wait_until("the log says why", |agent| {
        agent.log().contains("no [[api.client]] has a name of the certificate: stranger.example.org")
    });

    // All others fail in the handshake.
    let mut expired = named(&["urn:example:app"]);
    expired.not_after = date_time_ymd(2020, 1, 1);
    let mut early = named(&["urn:example:app"]);
    early.not_before = date_time_ymd(2120, 1, 1);
    let mut for_servers = named(&["urn:example:app"]);
    for_servers.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    for (application, alert) in [
        (application(expired), "CertificateExpired"),
        (application(early), "CertificateExpired"),
        (application(for_servers), "UnsupportedCertificate"),
        (Application::new(port, &ours, &others, named(&["urn:example:app"])), "UnknownCA"),
        (Application::new(port, &ours, &forged, named(&["urn:example:app"])), "DecryptError"),
        (Application::with(port, &ours, &[&TLS13], None), "CertificateRequired"),
        (Application::with(port, &ours, &[&TLS12], None), "ProtocolVersion"),
    ] {
        let refusal = application.refusal();
        assert!(refusal.contains(alert), "{alert}: {refusal}");
    }
    let mut plain = TcpStream::connect(("127.0.0.1", port)).unwrap();
    plain.write_all(b"GET /v1/status HTTP/1.0\r\n\r\n").unwrap();
    let mut answer = Vec::new();
    let _ = plain.read_to_end(&mut answer);
    assert!(!String::from_utf8_lossy(&answer).contains("HTTP"));
    agent.wait_until("failed handshakes are logged", |agent| agent.log().contains("TLS handshake failed"));

    // The API on this machine is as before, and the check knows the port of the running agent.
    assert_eq!(ApiClient::new(&agent).get("/v1/status").json(200)["token_ready"], true);
    let checked = agent.home.run("--json serve --check").json();
    assert_eq!(checked["api_remote"], Value::String(format!("127.0.0.1:{port}")));
    assert_eq!(checked["listens"], json!([format!("127.0.0.1:{}", agent.port)]));
}

#[test]
fn a_client_is_shut_out_while_it_is_connected() {
    let authority = Authority::new();
    let Some((mut agent, port)) = agent_with_remote_api(&authority, "client_crl = \"revoked.pem\"") else { return };
    fs::write(agent.home.path().join("revoked.pem"), authority.revocation_list(&[7])).unwrap();
    agent.start();
    let application = |name: &str, serial: u64| {
        let mut params = named(&[name]);
        params.serial_number = Some(SerialNumber::from(serial));
        Application::new(port, &authority, &authority, params)
    };
    let (reader, app) = (application("reader.example.org", 1), application("urn:example:app", 2));
    assert!(application("urn:example:app", 7).refusal().contains("CertificateRevoked"));
    let (mut of_reader, mut of_app) = (reader.events(), app.events());
    let mut idle = reader.connect().unwrap();
    send(&mut idle, "GET", "/v1/status", "", "");
    read_until(&mut idle, "token_ready");

    // The entry is taken out of the configuration.
    let before = agent.log().len();
    change_and_reload(&agent, "[[api.client]]\nname = \"Reader.example.org\"\nscopes = [\"read\"]\n", "");
    wait_for_log_line(&agent, before, &["configuration reloaded", "api.client"]);
    assert!(ends(&mut of_reader) && ends(&mut idle));
    assert_eq!(reader.get("/v1/status").error(403), "client-unknown");
    agent.send_text(&agent.did, "still here");
    read_until(&mut of_app, "still here");

    // The certificate is revoked; another one with the same name is not. A configuration that is refused does not matter.
    let mut idle = app.connect().unwrap();
    send(&mut idle, "GET", "/v1/status", "", "");
    read_until(&mut idle, "token_ready");
    let before = agent.log().len();
    fs::write(agent.home.path().join("revoked.pem"), authority.revocation_list(&[7, 2])).unwrap();
    change_and_reload(&agent, "[api.remote]\n", "[api.remote]\nunknown = 1\n");
    wait_for_log_line(&agent, before, &["certificate reloaded"]);
    let reloaded = Instant::now();
    assert!(ends(&mut of_app) && ends(&mut idle));
    assert!(reloaded.elapsed() < TIMEOUT / 2, "the check of each minute comes later");
    wait_for_log_line(&agent, before, &["configuration not reloaded", "unknown setting"]);
    assert!(app.refusal().contains("CertificateRevoked"));
    application("urn:example:app", 3).get("/v1/status").json(200);

    // Another authority takes over. The certificates of the old one serve no more.
    let (before, next) = (agent.log().len(), Authority::new());
    let mut of_app = application("urn:example:app", 3).events();
    fs::write(agent.home.path().join("clients.pem"), &next.pem).unwrap();
    fs::write(agent.home.path().join("revoked.pem"), next.revocation_list(&[])).unwrap();
    agent.signal(rustix::process::Signal::HUP);
    wait_for_log_line(&agent, before, &["certificate reloaded"]);
    assert!(ends(&mut of_app));
    Application::new(port, &authority, &next, named(&["urn:example:app"])).get("/v1/status").json(200);
}

/// Strangers hold as many connections as they can, from the address of the client.
#[test]
fn strangers_do_not_lock_out_a_client() {
    let authority = Authority::new();
    let Some((mut agent, port)) = agent_with_remote_api(&authority, "") else { return };
    agent.start();
    let app = Application::new(port, &authority, &authority, named(&["urn:example:app"]));
    let unlisted = Application::new(port, &authority, &authority, named(&["urn:example:other"]));
    let mut stream = app.events();

    let silent: Vec<TcpStream> = (0..300).map(|_| TcpStream::connect(("127.0.0.1", port)).unwrap()).collect();
    app.get("/v1/status").json(200);
    let unknown: Vec<TlsConnection> = (0..40).map(|_| unlisted.connect().unwrap()).collect();
    app.get("/v1/status").json(200);
    assert_eq!(ApiClient::new(&agent).get("/v1/status").json(200)["token_ready"], true);
    let sockets = || {
        let files = fs::read_dir(format!("/proc/{}/fd", agent.pid())).unwrap();
        files
            .filter_map(|file| fs::read_link(file.ok()?.path()).ok())
            .filter(|it| it.to_string_lossy().starts_with("socket:"))
            .count()
    };
    agent.wait_until("few of the connections are open", |_| sockets() < 60);
    assert!(agent.metric("claviger_api_connections_turned_away_total") >= 284.0);
    drop((silent, unknown));

    // A client has a bound of its own, which leaves the others served.
    let reader = Application::new(port, &authority, &authority, named(&["reader.example.org"]));
    let mut many: Vec<TlsConnection> = (0..64).map(|_| reader.connect().unwrap()).collect();
    for connection in &mut many {
        send(connection, "GET", "/v1/status", "", "");
        read_until(connection, "token_ready");
    }
    assert!(ends(&mut reader.connect().unwrap()));
    app.get("/v1/status").json(200);
    many.pop();
    agent.wait_until("a closed connection makes room", |_| {
        let Ok(mut connection) = reader.connect() else { return false };
        connection.sock.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        write!(connection, "GET /v1/status HTTP/1.0\r\nhost: x\r\n\r\n").is_ok()
            && connection.read(&mut [0; 64]).is_ok_and(|read| read > 0)
    });
    // The client that was there first is still served.
    agent.send_text(&agent.did, "to the first");
    read_until(&mut stream, "to the first");
}

/// `serve --check` exits with status 2, and names the file or the name that is wrong.
#[test]
fn wrong_settings_of_the_remote_api_are_refused_at_start() {
    let (Some(module), Some(home)) = (softhsm_module(), Home::with_token()) else { return };
    home.create_did("--method peer:2");
    let authority = Authority::new();
    authority.write_server_files(home.path());
    home.write("empty.pem", "");
    home.write("revoked.pem", &authority.revocation_list(&[]));
    home.write("broken.pem", "-----BEGIN X509 CRL-----\nMAA=\n-----END X509 CRL-----\n");
    let remote = |replace: &str, by: &str| {
        let table = "[api.remote]\nlisten = \"127.0.0.1:0\"\ntls_certificate = \"server.pem\"\ntls_key = \"server.key\"\n\
                     client_ca = \"clients.pem\"\nclient_crl = \"revoked.pem\"\n";
        assert!(table.contains(replace));
        table.replace(replace, by)
    };
    let client = |name: &str| format!("[[api.client]]\nname = \"{name}\"\nscopes = [\"read\"]\n");
    for (config, code, message) in [
        (
            remote("127.0.0.1:0", "agent.example.org:1"),
            "bad-config",
            "`api.remote.listen`: this is no IP address with a port",
        ),
        (
            remote("127.0.0.1:0", "127.0.0.1:1") + "[ops]\nlisten = \"127.0.0.1:1\"",
            "bad-config",
            "in [ops] and [api.remote]",
        ),
        ("[http]\nlisten = \"1\"".to_owned(), "bad-config", "`http.listen`: this is no IP address with a port"),
        (remote("client_ca = \"clients.pem\"\n", ""), "bad-config", "the setting \"client_ca\" is missing"),
        (remote("clients.pem", "empty.pem"), "bad-certificate", "empty.pem: the file contains no certificate"),
        (remote("clients.pem", "no-such-file"), "bad-certificate", "no-such-file"),
        (remote("revoked.pem", "empty.pem"), "bad-certificate", "empty.pem: the file contains no revocation list"),
        (remote("revoked.pem", "broken.pem"), "bad-certificate", "broken.pem: provided CRL could not be parsed"),
        (remote("revoked.pem", "broken.pem"), "bad-certificate", "a list needs version 2 and a number"),
        (remote("server.key", "server.pem"), "bad-certificate", "server.pem"),
        (remote("", "") + &client("*.example.org"), "bad-config", "\"*.example.org\": a name is a DNS name without"),
        (remote("", "") + &client("192.0.2.1"), "bad-config", "\"192.0.2.1\": a name is"),
        (remote("", "") + &client("a.org") + &client("a.org"), "bad-config", "two clients have the name"),
        (remote("", "") + &client("a.org") + &client("A.org"), "bad-config", "\"a.org\" and \"A.org\" are the same"),
        (remote("", "") + "[[api.client]]\nname = \"a.org\"\nscopes = []\n", "bad-config", "has no scope"),
    ] {
        home.configure(&module, &config);
        let output = home.run("--json serve --check");
        assert_eq!(output.error(2), code, "{config}");
        // The message is in JSON.
        assert!(output.stderr().replace("\\\"", "\"").contains(message), "{config}\n{}", output.stderr());
    }
    home.configure(&module, &(remote("", "") + &client("a.org") + &client("https://a.org/")));
    home.run("--json serve --check").success();
    home.configure(&module, &remote("", ""));
    let checked = home.run("serve --check");
    assert!(checked.status() == 0 && checked.stderr().contains("No [[api.client]] is listed"), "{}", checked.stderr());
}

/// The commands of docs/api.md, as printed.
#[test]
fn the_documented_certificates_work() {
    let is_installed = |name: &str| std::process::Command::new(name).arg("--version").output().is_ok();
    if !is_installed("openssl") || !is_installed("curl") {
        println!("skipped: openssl or curl is not installed");
        return;
    }
    let page = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/api.md")).unwrap();
    let (_, section) = page.split_once("### An application on another machine").unwrap();
    let blocks: Vec<&str> = section.split("```").skip(1).step_by(2).take(4).collect();
    let [commands, config, curl, revoke] = blocks[..] else { panic!("{blocks:?}") };
    let (_, commands) = commands.split_once('\n').unwrap();
    let (_, config) = config.split_once('\n').unwrap();
    let (_, curl) = curl.split_once('\n').unwrap();
    let port = free_port();
    let Some(mut agent) = Daemon::new(&config.replace("0.0.0.0:8443", &format!("127.0.0.1:{port}"))) else { return };
    let run = |agent: &Daemon, script: &str| {
        let output = agent.home.command("/bin/sh").args(["-ec", script]).output().unwrap();
        assert!(output.status.success(), "{script}\n{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    run(&agent, &format!("mkdir tls\ncd tls\n{commands}"));
    agent.start();
    let to_agent = format!("curl --silent --connect-to agent.example.org:8443:127.0.0.1:{port}");
    let status = run(&agent, &format!("cd tls\n{}", curl.replace("curl", &to_agent)));
    assert_eq!(serde_json::from_str::<Value>(&status).unwrap()["token_ready"], true);

    // The certificate is revoked.
    let (_, revoke) = revoke.split_once('\n').unwrap();
    run(&agent, &format!("cd tls\n{revoke}"));
    agent.stop();
    let path = agent.home.path().join("claviger.toml");
    let with_list = "[api.remote]\nclient_crl = \"tls/revoked.pem\"\n";
    fs::write(&path, fs::read_to_string(&path).unwrap().replace("[api.remote]\n", with_list)).unwrap();
    agent.start();
    run(&agent, &format!("cd tls\n! {}", curl.replace("curl", &to_agent)));
    agent.wait_until("the log says why", |agent| agent.log().contains("invalid peer certificate: Revoked"));
}
