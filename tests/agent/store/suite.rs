//! What the trait [`Store`] says of itself, sentence by sentence. Each backend is run against all of it.

use std::sync::Arc;

use async_trait::async_trait;
use claviger::agent::store::{Arrival, Commit, Committed, Receipt, Store};

pub use crate::store::{age::*, envelopes::*, many::*, messages::*, quotas::*, records::*, turns::*};

/// Where a store is: opened again, after it was closed, it is the same one.
#[async_trait]
pub trait Place: Send + Sync {
    async fn open(&self, limits: Limits) -> Arc<dyn Store>;
}

/// How much a store may take.
#[derive(Clone, Copy)]
pub struct Limits {
    pub envelope_bytes: u64,
    pub envelopes_for: u64,
    pub envelope_bytes_for: u64,
    pub unread_bytes: u64,
    pub unread_from: u64,
    pub unread_bytes_from: u64,
    pub replies_to: u64,
}

pub const NO_LIMITS: Limits = Limits {
    envelope_bytes: 1 << 30,
    envelopes_for: 100_000,
    envelope_bytes_for: 1 << 30,
    unread_bytes: 1 << 30,
    unread_from: 100_000,
    unread_bytes_from: 1 << 30,
    replies_to: 100_000,
};

/// The tests, for the places that `$make` makes.
#[macro_export]
macro_rules! suite {
    ($make:expr) => {
        $crate::suite! { $make =>
            what_comes_is_kept_as_it_came
            a_known_digest_is_not_kept_again
            envelopes_wait_in_their_order
            a_postponed_envelope_waits_for_its_time
            a_clock_set_back_loses_no_envelope
            numbers_and_cursors_are_never_given_twice
            a_turn_is_made_whole
            a_conflict_undoes_the_whole_turn
            a_message_is_handled_once
            an_expired_mark_counts_for_nothing
            deliveries_come_in_their_order_and_by_query
            what_is_acknowledged_is_forgotten_once
            the_outbox_keeps_its_order_for_each_peer
            what_became_of_a_message_is_kept
            a_thread_has_both_sides_by_time
            records_are_kept_by_name_and_revision
            a_record_past_its_time_is_not_there
            a_sweep_takes_what_is_past_its_time
            a_sweep_takes_no_more_than_it_is_told
            usage_tells_how_much_there_is
            limits_are_kept
            a_recipient_has_so_much
            a_sender_leaves_so_many
            a_sender_leaves_so_much
            all_senders_leave_so_much
            a_peer_has_so_many_replies
            a_closed_store_says_so
            hundreds_at_once_are_all_durable
            turns_at_once_are_all_or_nothing
            what_was_written_is_read
            a_caller_that_went_away_harms_nobody
        }
        #[test]
        fn a_model_in_memory_agrees() {
            $crate::store::model::agrees($make);
        }
    };
    ($make:expr => $($test:ident)*) => {$(
        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $test() {
            $crate::store::suite::$test(&$make()).await;
        }
    )*};
}

pub async fn open(place: &dyn Place) -> Arc<dyn Store> {
    place.open(NO_LIMITS).await
}

pub async fn reopen(place: &dyn Place, store: Arc<dyn Store>) -> Arc<dyn Store> {
    store.close().await.expect("the store closes");
    drop(store);
    open(place).await
}

pub async fn receive(store: &dyn Store, arrival: Arrival) -> i64 {
    match store.receive(arrival).await.expect("it is kept") {
        Receipt::New(id) => id,
        other => panic!("{other:?}"),
    }
}

pub async fn done(store: &dyn Store, turn: Commit) {
    assert_eq!(store.commit(turn).await.expect("it is written"), Committed::Done);
}
