//! What a keeper enforces: the audit log, the rate, and the configuration.

use std::{
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt},
    time::{Duration, Instant},
};

use claviger::{
    keys::{Curve, PublicKey},
    secrets::{
        Context, FromPriorClaims, KeyUse, NewKey, Secrets, SecretsError, SignRequest, TokenError, keeper::KeeperClient,
    },
};
use claviger_testkit::reference::{Parties, fresh_cek, message_to};
use serde_json::Value;

use crate::{
    home::{Home, MESSAGE, open_message, with_home},
    support::Module,
};

/// The lines of the audit log, each of which must be complete JSON.
fn audit_log(home: &Home) -> Vec<Value> {
    let text = fs::read_to_string(home.folder().join("state/audit.jsonl")).unwrap();
    assert!(text.ends_with('\n'));
    text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))).collect()
}

#[test]
fn each_operation_has_an_audit_line() {
    with_home(Module::SoftHsm, "", async |home| {
        let key = home.generate(Curve::P256);
        let supervisor = home.supervisor();
        let client = KeeperClient::start("demo", supervisor.connector("demo")).await.unwrap();
        let cx = Context {
            kid: Some("did:example:bob#key-1".into()),
            message_id: Some("a \"message\"\n{}".into()),
            ..Context::default()
        };
        open_message(&client, &key, &cx).await.unwrap();
        client.sign(&key, &MESSAGE, &cx).await.unwrap();
        let claims = FromPriorClaims { iss: "did:example:old".into(), sub: Some("did:example:new".into()), iat: None };
        let rotation = SignRequest::FromPrior { kid: "did:example:old#1", claims: &claims };
        client.sign(&key, &rotation, &cx).await.unwrap_err();
        let mut hostile = message_to(&key, None, &fresh_cek(), &Parties::example());
        hostile.encrypted_key[7] ^= 1;
        client.unwrap_cek(&key, &hostile, &Context::default()).await.unwrap_err();
        home.shim.order(&["fail C_SignInit 0x30"]);
        client.sign(&key, &MESSAGE, &cx).await.unwrap_err();
        home.shim.order(&[]);

        let lines = audit_log(home);
        let outcomes: Vec<_> =
            lines.iter().map(|line| [&line["operation"], &line["result"]].map(Value::as_str)).collect();
        let expected = [
            ("generate", "done"),
            ("unwrap", "done"),
            ("sign:message", "done"),
            ("sign:from-prior", "not-allowed"),
            ("unwrap", "message-refused"),
            ("sign:message", "token-failed"),
        ];
        assert_eq!(outcomes, expected.map(|(operation, result)| [Some(operation), Some(result)]));
        for (line, is_agent) in lines.iter().zip([false, true, true, true, true, true]) {
            let members: Vec<_> = line.as_object().unwrap().keys().map(String::as_str).collect();
            let expected = [
                "time",
                "token",
                "operation",
                "key",
                "kid",
                "message_id",
                "custody",
                "result",
                "pid",
                "uid",
                "seq",
                "prev",
            ];
            assert_eq!(members, expected);
            let time = line["time"].as_str().unwrap();
            assert!(time.len() == 27 && time.starts_with("20") && time.ends_with('Z'), "{time}");
            assert_eq!(line["token"], "demo");
            assert_eq!(line["key"], key.to_multikey());
            assert_eq!(line["uid"], fs::metadata("/proc/self").unwrap().uid());
            // The process that made the connection: for the agent, the supervisor.
            assert_eq!(line["pid"], if is_agent { supervisor.id() } else { std::process::id() });
        }
        for (number, line) in lines.iter().enumerate() {
            // One request had an empty context, and the custodian sends no context.
            let has_context = ![0, 4].contains(&number);
            assert_eq!(line["kid"].as_str(), has_context.then_some("did:example:bob#key-1"));
            assert_eq!(line["message_id"].as_str(), has_context.then_some("a \"message\"\n{}"));
        }
        assert_eq!(lines[1]["custody"], "kek-in-process");

        let file = home.folder().join("state/audit.jsonl");
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
        let pin = fs::read_to_string(home.pin_file()).unwrap();
        assert!(!fs::read_to_string(file).unwrap().contains(pin.trim()) && !home.log().contains(pin.trim()));
    });
}

/// Two keepers append to one file at the same time, and no line is lost.
#[test]
fn two_keepers_share_an_audit_log() {
    with_home(Module::SoftHsm, "", async |home| {
        let key = home.generate(Curve::P256);
        let before = audit_log(home);
        let clients = [home.client().await, home.client().await];
        assert_eq!(home.keepers().len(), 2);
        let tasks: Vec<_> = clients
            .iter()
            .enumerate()
            .map(|(number, client)| {
                let (client, key) = (client.clone(), key.clone());
                tokio::spawn(async move {
                    for message in 0..150 {
                        // Long lines, so that a write in parts would mix them.
                        let id = format!("{number}-{message}-{}", "x".repeat(400));
                        let cx = Context { message_id: Some(id.into()), ..Context::default() };
                        open_message(&*client, &key, &cx).await.unwrap();
                    }
                })
            })
            .collect();
        for task in tasks {
            task.await.unwrap();
        }
        let after = audit_log(home);
        assert_eq!(after[..before.len()], before);
        let mut ids: Vec<_> = after[before.len()..].iter().map(|line| line["message_id"].as_str().unwrap()).collect();
        assert_eq!(ids.len(), 300);
        ids.sort_unstable();
        ids.dedup();
        assert_eq!(ids.len(), 300, "each has one line");
        let verified = home.run("audit verify");
        assert!(verified.status.success(), "it is one chain: {verified:?}");
    });
}

#[test]
fn results_are_withheld_while_the_audit_log_cannot_be_written() {
    with_home(Module::SoftHsm, "", async |home| {
        let key = home.generate(Curve::P256);
        let configuration = fs::read_to_string(home.folder().join("claviger.toml")).unwrap();
        fs::write(home.folder().join("claviger.toml"), format!("{configuration}audit = \"/dev/full\"\n")).unwrap();
        let client = home.client().await;
        let done = home.shim.calls("C_Sign");
        let errors = [
            client.sign(&key, &MESSAGE, &Context::default()).await.map(|_| ()),
            open_message(&*client, &key, &Context::default()).await,
        ];
        for error in errors {
            let error = error.unwrap_err();
            assert!(matches!(error, SecretsError::AuditFailed(_)) && error.is_retryable(), "{error:?}");
        }
        assert!(home.shim.calls("C_Sign") > done, "the signature was made, and withheld");
        assert!(home.log().contains("results are withheld"), "{}", home.log());
        assert_eq!(client.outage(), None, "the token is in service");
    });
}

#[test]
fn each_key_has_its_own_rate() {
    with_home(Module::SoftHsm, "rate = 5", async |home| {
        let (key, other) = (home.generate(Curve::P256), home.generate(Curve::P256));
        let client = home.client().await;
        // The first request also starts the keeper, which takes time.
        open_message(&*client, &other, &Context::default()).await.unwrap();
        let requests: Vec<_> = (0..10).map(|_| message_to(&key, None, &fresh_cek(), &Parties::example())).collect();
        let start = Instant::now();
        let mut done = 0;
        for request in &requests {
            match client.unwrap_cek(&key, request, &Context::default()).await {
                Ok(_) => done += 1,
                Err(error) => {
                    assert!(matches!(&error, SecretsError::RateLimited(of) if *of == key), "{error:?}");
                    assert!(error.is_retryable());
                }
            }
        }
        let took = start.elapsed();
        // One more request is allowed for each 200 ms that passed. On an idle machine that is none.
        let most = 5 + usize::try_from(took.as_millis() / 200).unwrap();
        assert!((5..=most.min(10)).contains(&done), "{done} done in {took:?}");
        println!("rate = 5: {done} of 10 done in {took:?}");
        open_message(&*client, &other, &Context::default()).await.expect("another key has its own rate");
        let limited = audit_log(home).iter().filter(|line| line["result"] == "rate-limited").count();
        assert_eq!(limited, 10 - done);
        tokio::time::sleep(Duration::from_millis(500)).await;
        open_message(&*client, &key, &Context::default()).await.expect("after a while there is room again");
    });
}

/// Without a keeper, the token's module and PIN are in the command's own process. That works, with a warning.
#[test]
fn in_process_works_and_warns() {
    const WARNING: &str = "in_process = true";
    with_home(Module::SoftHsm, "", async |home| {
        for (in_process, keeper) in [(false, ""), (true, "in_process = true")] {
            home.configure("claviger.toml", &format!("uri = {:?}", home.uri), keeper);
            let run = |words: &str, stdin: &str| {
                let output = home.run_with_stdin(words, stdin);
                let (out, err) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
                assert!(output.status.success(), "{words}: {err}");
                assert_eq!(err.contains(WARNING), in_process, "{words}: {err}");
                out
            };
            let audited = fs::read_to_string(home.folder().join("state/audit.jsonl")).unwrap_or_default();
            let did = run("did create --method peer:2", "").trim().to_owned();
            run("key list", "");
            let message = serde_json::json!({
                "id": "1", "typ": "application/didcomm-plain+json", "type": "https://example.org/chat/1.0/say",
                "from": did, "to": [did], "body": { "text": "ho" },
            });
            let packed = run(&format!("pack --from {did} --to {did}"), &message.to_string());
            let opened: Value = serde_json::from_str(&run("unpack", &packed)).unwrap();
            assert_eq!(opened["message"]["body"]["text"], "ho");
            let audits = fs::read_to_string(home.folder().join("state/audit.jsonl")).unwrap_or_default() != audited;
            assert_eq!(audits, !in_process, "only a keeper writes an audit log");
        }
    });
}

#[test]
fn a_token_has_either_a_uri_or_a_keeper() {
    with_home(Module::SoftHsm, "", async |home| {
        for token in [format!("uri = {:?}\nkeeper = {:?}", home.uri, home.address()), String::new()] {
            home.configure("claviger.toml", &token, "");
            let output = home.run("--json key list");
            assert_eq!(output.status.code(), Some(2));
            let stderr = String::from_utf8(output.stderr).unwrap();
            assert!(
                stderr.contains(r#""code":"bad-config""#) && stderr.contains("needs either `uri` or `keeper`"),
                "{stderr}"
            );
        }
        // A token that another keeper holds is not opened here.
        home.configure("claviger.toml", &format!("keeper = {:?}", home.address()), "");
        let stderr = String::from_utf8(home.run("--json keeper --listen unix:x").stderr).unwrap();
        assert!(stderr.contains(r#""code":"token-elsewhere""#), "{stderr}");
    });
}

/// A key below the minimum custody is deleted again: at the next start the whole token would be refused because of it.
#[test]
fn a_new_key_below_the_minimum_is_not_left_behind() {
    with_home(Module::SoftHsm, "", async |home| {
        home.configure("claviger.toml", &format!("uri = {:?}\nminimum_custody = \"kek-in-token\"", home.uri), "");
        let (custodian, _process) = home.custodian();
        let key = NewKey { curve: Curve::P256, usage: KeyUse::Both, label: None };
        let error = custodian.generate(&key).unwrap_err();
        assert!(matches!(error, TokenError::Custody(_)), "{error:?}");
        assert_eq!(custodian.inventory().unwrap(), []);
    });
}

/// If the token cannot reach the minimum custody, the client gets a configuration error.
#[test]
fn an_unreachable_minimum_custody_is_refused() {
    with_home(Module::SoftHsm, "", async |home| {
        let _: PublicKey = home.generate(Curve::P256);
        home.configure("claviger.toml", &format!("uri = {:?}\nminimum_custody = \"kek-in-token\"", home.uri), "");
        let error =
            KeeperClient::start("demo", home.supervisor().connector("demo")).await.err().expect("it is refused");
        let custody = matches!(&error, SecretsError::Token { error: TokenError::Custody(_), .. });
        assert!(custody && !error.is_retryable(), "{error:?}");
    });
}
