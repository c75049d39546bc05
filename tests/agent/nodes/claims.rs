//! Messages that wait at the other node, and that this node claims.

use std::time::{Duration, Instant};

use claviger::{
    agent::{
        AgentError,
        store::{Hint, OutboxQuery, SendState},
    },
    didcomm::Message,
    net::{WebSocketClient, WebSocketOptions, WebSocketReceiver, WebSocketSender},
};

use super::{A_WHILE, Fixture, PIURI, until};
use crate::net::server::Authority;

/// Packs a message of Alice's that asks for a return route.
async fn ask_for_route(fixture: &Fixture) -> String {
    let asks_for_route = |message: &mut Message| message.return_route = Some("all".to_owned());
    fixture.people.pack_with(&format!("{PIURI}/tell"), asks_for_route).await
}

/// Alice posts messages until a response has one for her. A busy machine may answer with 202 before it has come.
async fn until_returned(fixture: &Fixture) {
    let asks = async || {
        let status = fixture.running.post(&ask_for_route(fixture).await).await;
        assert!([" 200 ", " 202 "].iter().any(|code| status.contains(code)), "{status}");
        status
    };
    until("the response has the message", async || asks().await.contains(" 200 ")).await;
}

/// Alice opens a WebSocket with a return route.
async fn connect(fixture: &Fixture) -> (WebSocketSender, WebSocketReceiver) {
    let client = WebSocketClient::new(Authority::new().dialer(), WebSocketOptions::default());
    let (sender, receiver) = client.connect(&fixture.running.websocket_url()).await.unwrap();
    sender.send(ask_for_route(fixture).await).await.unwrap();
    fixture.running.until_idle().await;
    tokio::time::sleep(A_WHILE).await;
    (sender, receiver)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_that_is_tried_here_is_claimed() {
    let fixture = Fixture::start(true, Some("sink://alice")).await;
    let id = fixture.send_elsewhere().await;
    fixture.store.take_calls();
    fixture.running.agent.retry(&id).await.unwrap();
    fixture.until_sent(&id).await;
    assert_eq!(fixture.store.calls_of("claim_outgoing"), 1);
    assert!(matches!(fixture.running.agent.retry(&id).await, Err(AgentError::NotWaiting(_))));
    fixture.running.stop().await;
}

/// Alice, whom nobody can reach, connects to this node.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_open_route_claims_what_waits_elsewhere() {
    let fixture = Fixture::start(true, None).await;
    let id = fixture.send_elsewhere().await;
    tokio::time::sleep(A_WHILE).await;
    assert_eq!((fixture.state_of(&id).await, fixture.store.calls_of("claim_outgoing")), (SendState::Waiting, 0));
    until_returned(&fixture).await;
    fixture.until_sent(&id).await;
    assert!(fixture.store.calls_of("claim_outgoing") >= 1);
    let all = OutboxQuery { limit: 10, ..OutboxQuery::default() };
    assert_eq!(fixture.running.agent.outbox(all).await.unwrap().len(), 1);
    fixture.running.stop().await;
}

/// Alice is connected here. The other node got a message for her while this one could not reach the database.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_waits_elsewhere_for_a_connected_peer_is_found_if_hints_were_lost() {
    let fixture = Fixture::start(true, None).await;
    let id = fixture.send_elsewhere().await;
    fixture.store.know_of_other(false);
    let (_sender, mut receiver) = connect(&fixture).await;
    fixture.store.know_of_other(true);
    tokio::time::sleep(A_WHILE).await;
    assert_eq!((fixture.state_of(&id).await, fixture.store.calls_of("claim_outgoing")), (SendState::Waiting, 0));
    fixture.store.hint(&[Hint::Anything]);
    fixture.until_sent(&id).await;
    assert!(receiver.receive().await.unwrap().is_some());
    fixture.running.stop().await;
}

/// Alice may be connected to the other node as well, which sends the message then.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_other_node_may_send_its_messages_first() {
    let fixture = Fixture::start(true, None).await;
    let (_sender, mut receiver) = connect(&fixture).await;
    fixture.store.take_calls();
    let begun = Instant::now();
    let id = fixture.send_elsewhere().await;
    until("the message is claimed", async || fixture.store.calls_of("claim_outgoing") == 1).await;
    assert!(begun.elapsed() >= Duration::from_millis(300), "{:?}", begun.elapsed());
    fixture.until_sent(&id).await;
    assert!(receiver.receive().await.unwrap().is_some());
    fixture.running.stop().await;
}

/// A response takes one message, and a claim takes all. A load balancer spreads the requests over the nodes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_messages_of_a_peer_that_polls_are_claimed_rarely() {
    let fixture = Fixture::start(true, None).await;
    let begun = Instant::now();
    for _ in 0..2 {
        let id = fixture.send_elsewhere().await;
        until_returned(&fixture).await;
        fixture.until_sent(&id).await;
    }
    assert!(begun.elapsed() >= Duration::from_secs(5), "{:?}", begun.elapsed());
    assert_eq!(fixture.store.calls_of("claim_outgoing"), 2);
    fixture.running.stop().await;
}

/// An application asks for an attempt, and closes its connection while the message is claimed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_claimed_is_tried_although_nobody_waits() {
    let fixture = Fixture::start(true, Some("sink://alice")).await;
    let id = fixture.send_elsewhere().await;
    tokio::time::sleep(A_WHILE).await;
    fixture.store.delay_claims(Duration::from_secs(2));
    let is_claimed = async || fixture.store.calls_of("claim_outgoing") == 1;
    tokio::select! {
        _ = fixture.running.agent.retry(&id) => panic!("the claim takes longer"),
        () = until("the message is claimed", is_claimed) => {}
    }
    fixture.until_sent(&id).await;
    fixture.running.stop().await;
}
