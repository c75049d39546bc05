//! An application that is busy: it sends numbered messages, reads what came, and acknowledges it, while its daemon comes and goes.

use std::{
    collections::{HashMap, HashSet},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use serde_json::json;

use crate::{
    application::{Application, SAY},
    daemon::Daemon,
};

/// The pause between two messages.
const PACE: Duration = Duration::from_millis(20);

pub struct Correspondent {
    stop_sending: Arc<AtomicBool>,
    stop: Arc<AtomicBool>,
    books: Arc<Mutex<Books>>,
    threads: Vec<JoinHandle<()>>,
}

/// What it knows.
#[derive(Default)]
pub struct Books {
    /// The daemon has said that these are kept.
    pub sent: HashSet<String>,
    /// The daemon was killed before it said so.
    pub open: HashSet<String>,
    /// What came, with the names under which it came.
    pub received: HashMap<String, HashSet<String>>,
}

impl Correspondent {
    /// One of this daemon, that writes to a DID.
    pub fn of(name: &'static str, daemon: &Daemon, to: &str) -> Self {
        let correspondent =
            Self { stop_sending: Arc::default(), stop: Arc::default(), books: Arc::default(), threads: Vec::new() };
        let (application, from, to) = (Application::of(daemon), daemon.did.clone(), to.to_owned());
        let (books, stop) = (correspondent.books.clone(), correspondent.stop_sending.clone());
        let sender = thread::spawn(move || {
            for number in 0.. {
                if stop.load(Ordering::SeqCst) {
                    return;
                }
                let content = format!("{name} {number}");
                let body = json!({"to": to, "from": from, "type": SAY, "body": {"content": content}});
                let kept = application.try_post("/v1/messages", &body).is_some_and(|answer| answer.status == 202);
                let mut books = books.lock().unwrap();
                if kept {
                    books.sent.insert(content)
                } else {
                    books.open.insert(content)
                };
                drop(books);
                thread::sleep(PACE);
            }
        });
        let (application, books, stop) =
            (Application::of(daemon), correspondent.books.clone(), correspondent.stop.clone());
        let reader = thread::spawn(move || {
            while !stop.load(Ordering::SeqCst) {
                if read(&application, &books).is_none() {
                    thread::sleep(PACE);
                }
            }
        });
        Self { threads: vec![sender, reader], ..correspondent }
    }

    /// Nothing more is sent; what comes is read.
    pub fn stop_sending(&self) {
        self.stop_sending.store(true, Ordering::SeqCst);
    }

    pub fn books(&self) -> std::sync::MutexGuard<'_, Books> {
        self.books.lock().unwrap()
    }

    pub fn stop(self) -> Books {
        self.stop_sending();
        self.stop.store(true, Ordering::SeqCst);
        self.threads.into_iter().for_each(|thread| thread.join().unwrap());
        std::mem::take(&mut *self.books.lock().unwrap())
    }
}

/// A page of the inbox. What is read is noted before it is acknowledged, as an application must do that loses nothing.
fn read(application: &Application, books: &Mutex<Books>) -> Option<()> {
    let answer = application.try_ask("GET", "/v1/inbox?limit=200", "", "").filter(|answer| answer.status == 200)?;
    let page = answer.json(200);
    let messages = page["messages"].as_array().filter(|messages| !messages.is_empty())?;
    let mut ids = Vec::new();
    for message in messages {
        let id = message["id"].as_str()?.to_owned();
        let content = message["message"]["body"]["content"].as_str()?.to_owned();
        books.lock().unwrap().received.entry(content).or_default().insert(id.clone());
        ids.push(id);
    }
    application.try_post("/v1/inbox/acknowledge", &json!({"ids": ids})).map(drop)
}
