//! What counts as sent, and requests to send that are repeated.

use std::{
    collections::HashMap,
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddrV4, TcpListener, TcpStream},
    sync::{Arc, Mutex},
    thread,
    time::{Duration, Instant},
};

use rustix::net::{AddressFamily, SocketType, connect, socket, sockopt};
use serde_json::{Value, json};

use crate::{
    api_client::{ApiClient, SAY},
    daemon::{Daemon, TIMEOUT, free_port, write_with_mode},
    endpoint::Endpoint,
    home::Home,
    peer::Peer,
    websocket_client::WebSocketClient,
};

/// A connection whose receiver accepts only some kilobytes before it reads.
fn connect_with_small_buffer(port: u16) -> TcpStream {
    let socket = socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
    sockopt::set_socket_recv_buffer_size(&socket, 4096).unwrap();
    connect(&socket, &SocketAddrV4::new([127, 0, 0, 1].into(), port)).unwrap();
    TcpStream::from(socket)
}

/// A message that asks for a return route.
fn asking(peer: &Peer, daemon: &Daemon) -> String {
    let mut message = peer.message(&daemon.did, "is there something for me?").finalize();
    message.return_route = Some("all".to_owned());
    peer.pack(&message)
}

/// A peer asks for its message and closes the connection before the response is written. The message is not lost.
#[test]
fn a_reply_counts_as_sent_once_it_is_written() {
    let http = "return_route_seconds = 60\n[net]\nallow_private = [\"127.0.0.0/8\"]";
    let Some(mut daemon) = Daemon::with_config(http, "[agent]\nmax_message_bytes = 20_000_000\n") else { return };
    daemon.start();
    let peer = Peer::new("peer");
    // More than the buffers of the connection hold (tcp_wmem).
    let large = "x".repeat(5_000_000);
    let id = daemon.send_text(peer.did(), &large).unwrap();
    daemon.wait_until("there is no endpoint", |daemon| daemon.outbox_message(&id)["problem"] != Value::Null);
    let packed = asking(&peer, &daemon);
    let mut stream = connect_with_small_buffer(daemon.port);
    let head = format!(
        "POST / HTTP/1.1\r\nhost: a\r\ncontent-type: application/didcomm-encrypted+json\r\ncontent-length: {}\r\n\r\n",
        packed.len()
    );
    stream.write_all(head.as_bytes()).unwrap();
    stream.write_all(packed.as_bytes()).unwrap();
    let mut first = [0; 15];
    stream.set_read_timeout(Some(TIMEOUT)).unwrap();
    stream.read_exact(&mut first).unwrap();
    assert_eq!(&first, b"HTTP/1.1 200 OK");
    drop(stream);
    daemon.wait_until("the attempt has failed", |daemon| {
        let message = daemon.outbox_message(&id);
        assert_ne!(message["state"], "sent", "the peer has not read the message");
        message["problem"].as_str().is_some_and(|problem| problem.contains("connection has ended"))
    });
    let mut socket = WebSocketClient::open(daemon.port);
    socket.send(&asking(&peer, &daemon)).unwrap();
    let packed = socket.next(TIMEOUT).expect("the message");
    assert!(packed.len() > large.len());
    daemon.wait_until("the message is sent", |daemon| daemon.outbox_message(&id)["state"] == "sent");
}

/// What a distant server has seen.
struct Seen {
    /// When the last request arrived.
    last: Instant,
    /// The requests under way, by their thread, and the most that there were at once.
    now: HashMap<String, usize>,
    most: usize,
    most_of_conversation: usize,
    /// The texts of the conversation, in the order of their arrival.
    conversation: Vec<String>,
}

/// A server that is far away gets many messages at once, and those of one thread one after the other.
#[test]
fn a_distant_server_gets_many_messages_at_once() {
    let Some(daemon) = Daemon::running("") else { return };
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let uri = format!("http://{}", listener.local_addr().unwrap());
    let peer = Arc::new(Peer::with_endpoint("peer", &uri));
    let seen =
        Seen { last: Instant::now(), now: HashMap::new(), most: 0, most_of_conversation: 0, conversation: Vec::new() };
    let seen = Arc::new(Mutex::new(seen));
    let endpoint = Endpoint::with_listener(listener, {
        let (peer, seen) = (peer.clone(), seen.clone());
        move |request| {
            let (message, _) = peer.open(&request.body);
            let of = message.thid.clone().unwrap_or(message.id);
            let mut now = seen.lock().unwrap();
            now.last = Instant::now();
            *now.now.entry(of.clone()).or_default() += 1;
            now.most = now.most.max(now.now.values().sum());
            if of == "conversation" {
                now.most_of_conversation = now.most_of_conversation.max(now.now[&of]);
                let text = message.body["content"].as_str().unwrap().to_owned();
                now.conversation.push(text);
            }
            drop(now);
            // The answers come once no other request follows: then the daemon waits for them.
            while seen.lock().unwrap().last.elapsed() < Duration::from_millis(300) {
                thread::sleep(Duration::from_millis(20));
            }
            *seen.lock().unwrap().now.get_mut(&of).unwrap() -= 1;
            (202, String::new(), String::new())
        }
    });
    let message = |number: usize| {
        let mut message =
            json!({"to": peer.did(), "from": daemon.did, "type": SAY, "body": {"content": number.to_string()}});
        if number.is_multiple_of(50) {
            message["headers"] = json!({"thid": "conversation"});
        }
        message
    };
    for batch in 0..4 {
        let messages: Vec<Value> = (batch * 100..(batch + 1) * 100).map(message).collect();
        ApiClient::new(&daemon).post("/v1/batches", &json!({ "messages": messages })).json(200);
    }
    daemon.wait_until("all are sent", |daemon| daemon.metric("claviger_waiting{queue=\"outbox\"}") == 0.0);
    assert_eq!(endpoint.messages().len(), 400);
    let seen = seen.lock().unwrap();
    assert!((20..=128).contains(&seen.most), "{} at once", seen.most);
    assert_eq!(seen.most_of_conversation, 1);
    let expected: Vec<String> = (0..400).step_by(50).map(|number| number.to_string()).collect();
    assert_eq!(seen.conversation, expected);
}

#[test]
fn a_request_to_send_can_be_repeated() {
    let Some(mut daemon) = Daemon::running("") else { return };
    let endpoint = Endpoint::accepting();
    let peer = Peer::with_endpoint("peer", &endpoint.uri());
    let request = |id: &str, content: &str| json!({ "id": id, "to": peer.did(), "from": daemon.did, "type": SAY, "body": { "a": 1, "content": content } });
    let once = request("order-4711", "one loaf");
    let first = ApiClient::new(&daemon).post("/v1/messages", &once).json(202);
    assert_eq!((&first["id"], &first["message_id"]), (&json!("order-4711"), &json!("order-4711")));
    daemon.wait_until("the message is sent", |_| endpoint.messages().len() == 1);
    daemon.wait_until("it is recorded", |daemon| daemon.outbox_message("order-4711")["state"] == "sent");
    // The same members in another order are the same content. Requests at the same time conflict with each other.
    let mut reordered = once.clone();
    reordered["body"] = json!({ "content": "one loaf", "a": 1 });
    let new = request("order-4712", "two loaves");
    thread::scope(|scope| {
        for body in [&once, &reordered, &new, &new, &new, &new] {
            scope.spawn(|| {
                let answer = ApiClient::new(&daemon).post("/v1/messages", body).json(202);
                assert_eq!(answer["id"], body["id"]);
            });
        }
    });
    let other = request("order-4711", "two loaves");
    assert_eq!(ApiClient::new(&daemon).post("/v1/messages", &other).error(409), "id-taken");
    let another_id = daemon.send_text(peer.did(), "an id of the agent").unwrap();
    let taken = request(&another_id, "an id of the agent");
    assert_eq!(ApiClient::new(&daemon).post("/v1/messages", &taken).error(409), "id-taken");
    for invalid in ["", "Order", "a b", &"0".repeat(65)] {
        let request = request(invalid, "x");
        assert_eq!(ApiClient::new(&daemon).post("/v1/messages", &request).error(400), "bad-message", "{invalid}");
    }
    // A message whose outcome is not recorded would be sent again after the restart.
    daemon.wait_until("all messages are sent", |daemon| daemon.metric("claviger_waiting{queue=\"outbox\"}") == 0.0);
    daemon.kill();
    daemon.start();
    assert_eq!(ApiClient::new(&daemon).post("/v1/messages", &once).json(202), first);
    assert_eq!(daemon.json(&["send", "--to", peer.did(), "--id", "mine", "text"])["id"], "mine");
    assert_eq!(daemon.json(&["send", "--to", peer.did(), "--id", "mine", "text"])["id"], "mine");
    assert_eq!(daemon.run(&["send", "--to", peer.did(), "--id", "mine", "another"]).error(1), "id-taken");
    daemon.wait_until("the outbox is empty", |daemon| daemon.metric("claviger_waiting{queue=\"outbox\"}") == 0.0);
    let mut ids: Vec<String> = endpoint.messages().iter().map(|packed| peer.open(packed).0.id).collect();
    ids.sort();
    let another_id = daemon.outbox_message(&another_id)["message_id"].as_str().unwrap().to_owned();
    let mut expected = vec!["mine".to_owned(), "order-4711".to_owned(), "order-4712".to_owned(), another_id];
    expected.sort();
    assert_eq!(ids, expected);
}

/// The agent stores a message, and its answer is lost. The command line asks again with the same id.
#[test]
fn the_command_line_repeats_a_request_without_an_answer() {
    let home = Home::new();
    let port = free_port();
    home.write("claviger.toml", &format!("[api]\nlisten = \"127.0.0.1:{port}\"\ntoken_file = \"api.token\"\n"));
    write_with_mode(&home, "api.token", &"t".repeat(40), 0o600);
    let listener = TcpListener::bind(("127.0.0.1", port)).unwrap();
    let agent = thread::spawn(move || {
        let mut bodies: Vec<Value> = Vec::new();
        for stream in listener.incoming() {
            let mut reader = BufReader::new(stream.unwrap());
            let (mut length, mut line) = (0, String::new());
            while reader.read_line(&mut line).unwrap() > 0 && line != "\r\n" {
                if let Some(value) = line.to_lowercase().strip_prefix("content-length:") {
                    length = value.trim().parse().unwrap();
                }
                line.clear();
            }
            let mut body = vec![0; length];
            reader.read_exact(&mut body).unwrap();
            if body.is_empty() {
                continue;
            }
            bodies.push(serde_json::from_slice(&body).unwrap());
            if bodies.len() == 2 {
                let answer = json!({ "id": bodies[1]["id"] }).to_string();
                let head = format!("HTTP/1.1 202 Accepted\r\ncontent-length: {}\r\n\r\n", answer.len());
                reader.get_mut().write_all(format!("{head}{answer}").as_bytes()).unwrap();
                break;
            }
        }
        bodies
    });
    let sent = home.run("--json send --anonymous --to did:example:bob hello").json();
    let bodies = agent.join().unwrap();
    assert_eq!(bodies[0], bodies[1]);
    assert_eq!(sent["id"], bodies[0]["id"]);
}
