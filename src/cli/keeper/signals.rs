//! What the processes of `claviger keeper` do when they get a signal.

use std::{
    sync::{Arc, Weak},
    thread,
};

use claviger::secrets::keeper::Keeper;
use rustix::process::{Signal, getpid, kill_process};
use tokio::{
    runtime::Builder,
    signal::unix::{SignalKind, signal},
};

/// SIGHUP does not end this process: whoever rotates logs may send it to every process of a service.
pub fn ignore_hangup() {
    on_signal(SignalKind::hangup(), || ());
}

/// SIGHUP makes the keeper go on in a new audit file if the present one was renamed. SIGTERM makes it write the counts of
/// refusals, and ends this process.
pub fn serve(keeper: &Arc<Keeper>) {
    let with = |keeper: &Arc<Keeper>, action: fn(&Keeper)| {
        // The keeper ends when its last owner drops it.
        let keeper = Arc::downgrade(keeper);
        move || Weak::upgrade(&keeper).iter().for_each(|keeper| action(keeper))
    };
    on_signal(SignalKind::hangup(), with(keeper, Keeper::reopen_audit));
    let end_audit = with(keeper, Keeper::end_audit);
    on_signal(SignalKind::terminate(), move || {
        end_audit();
        // Not exit(3), which would run the module's clean-up while threads are inside the module.
        let _ = kill_process(getpid(), Signal::KILL);
    });
}

/// Calls `action` at each signal from now on, on a thread of its own.
fn on_signal(kind: SignalKind, action: impl Fn() + Send + 'static) {
    thread::spawn(move || {
        let listening = Builder::new_current_thread().enable_io().build();
        let listened = listening.and_then(|runtime| {
            runtime.block_on(async {
                let mut signals = signal(kind)?;
                while signals.recv().await.is_some() {
                    action();
                }
                Ok(())
            })
        });
        if let Err(error) = listened {
            tracing::error!(%error, "cannot listen for a signal, which ends this process");
        }
    });
}
