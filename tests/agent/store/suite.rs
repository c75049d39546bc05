//! The suite of the trait [`Store`]. Every backend must pass it.

use std::sync::Arc;

use async_trait::async_trait;
use claviger::agent::store::{Commit, CommitOutcome, NewEnvelope, ReceiveOutcome, Store};

pub use crate::store::{
    commits::*, concurrency::*, envelopes::*, events::*, messages::*, quotas::*, records::*, retention::*, strangers::*,
};

/// A location of a store. A store that is closed and opened again has the same content.
#[async_trait]
pub trait StoreLocation: Send + Sync {
    async fn open(&self, limits: Limits) -> Arc<dyn Store>;
}

/// The limits of a store.
#[derive(Clone, Copy)]
pub struct Limits {
    pub envelope_bytes: u64,
    pub envelopes_for: u64,
    pub known_peer_percent: u32,
    pub envelope_bytes_for: u64,
    pub unread_bytes: u64,
    pub unread_from: u64,
    pub unread_bytes_from: u64,
    pub replies_to: u64,
    pub stranger_bytes: u64,
    pub stranger_marks: u64,
    pub stranger_unread: u64,
    pub stranger_unread_bytes: u64,
    pub events: u64,
}

pub const NO_LIMITS: Limits = Limits {
    envelope_bytes: 1 << 30,
    envelopes_for: 100_000,
    known_peer_percent: 100,
    envelope_bytes_for: 1 << 30,
    unread_bytes: 1 << 30,
    unread_from: 100_000,
    unread_bytes_from: 1 << 30,
    replies_to: 100_000,
    stranger_bytes: 1 << 30,
    stranger_marks: 100_000,
    stranger_unread: 100_000,
    stranger_unread_bytes: 1 << 30,
    events: 100_000,
};

/// The tests of the suite, for locations that `$make` creates. Without a location, since a server is not installed, the tests are
/// skipped.
#[macro_export]
macro_rules! suite {
    ($make:expr) => {
        $crate::suite! { $make =>
            an_envelope_is_stored_as_received
            a_known_envelope_is_not_stored_again
            pending_envelopes_keep_their_order
            a_postponed_envelope_is_due_later
            postponed_envelopes_are_made_due
            a_clock_set_back_loses_no_envelope
            ids_and_cursors_are_never_reused
            a_commit_makes_all_changes
            a_conflict_undoes_all_changes
            a_commit_is_made_if_its_expectations_hold
            of_concurrent_commits_with_one_expectation_one_is_made
            an_envelope_is_processed_before_it_is_stored
            a_message_is_handled_once
            a_message_is_handled_once_under_all_names
            an_expired_mark_is_ignored
            deliveries_are_ordered_and_filtered
            unknown_cursors_are_refused
            large_deliveries_are_read_in_parts
            acknowledged_content_is_deleted_once
            the_outbox_keeps_the_order_of_each_peer
            send_outcomes_are_recorded
            waiting_messages_expire_without_an_attempt
            a_thread_lists_both_directions_by_time
            the_outbox_is_listed_by_state_in_pages
            records_have_keys_and_revisions
            revisions_are_never_reused
            an_expired_record_is_not_returned
            connections_and_rotations_are_found_by_peer
            expired_content_is_deleted
            a_mark_outlives_the_copies_that_wait
            deletion_stops_at_its_limit
            usage_counts_the_content
            limits_are_enforced
            strangers_leave_room_for_known_peers
            a_named_peer_leaves_room_for_others
            a_commit_that_needs_room_finds_it
            commits_at_once_find_the_room_that_there_is
            a_recipient_has_a_limit_of_bytes
            a_sender_has_a_limit_of_messages
            a_sender_has_a_limit_of_bytes
            all_senders_share_a_limit_of_bytes
            a_peer_has_a_limit_of_replies
            strangers_seen_longest_ago_are_forgotten
            a_stranger_becomes_known
            a_strangers_connection_is_found_by_peer
            a_stranger_is_forgotten_after_a_while
            replies_to_strangers_leave_no_history
            the_history_of_strangers_is_limited
            strangers_share_the_room_for_unread_messages
            the_marks_of_strangers_are_limited
            marks_of_the_future_are_kept_until_then
            what_may_have_been_handled_is_not_certainly_new
            untimed_marks_of_strangers_are_dropped
            events_are_read_in_order_by_kind
            an_event_is_written_with_what_it_tells
            old_and_surplus_events_are_deleted
            events_of_strangers_take_a_tenth
            a_closed_store_refuses_requests
            hundreds_of_concurrent_envelopes_are_durable
            concurrent_commits_are_atomic
            a_change_that_fails_fails_its_request_alone
            a_write_is_visible_to_reads
            a_cancelled_caller_does_no_harm
        }
        #[test]
        fn a_model_in_memory_agrees() {
            $crate::store::model::compare_with_store($make);
        }
    };
    ($make:expr => $($test:ident)*) => {$(
        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $test() {
            let Some(location) = $make() else { return };
            $crate::store::suite::$test(&location).await;
        }
    )*};
}

pub async fn open(location: &dyn StoreLocation) -> Arc<dyn Store> {
    location.open(NO_LIMITS).await
}

pub async fn reopen(location: &dyn StoreLocation, store: Arc<dyn Store>) -> Arc<dyn Store> {
    store.close().await.expect("the store closes");
    drop(store);
    open(location).await
}

pub async fn receive(store: &dyn Store, envelope: NewEnvelope) -> i64 {
    match store.receive(envelope).await.expect("the envelope is stored") {
        ReceiveOutcome::Stored(id) => id,
        other => panic!("{other:?}"),
    }
}

pub async fn commit_ok(store: &dyn Store, commit: Commit) {
    assert_eq!(store.commit(commit).await.expect("the commit succeeds"), CommitOutcome::Committed);
}
