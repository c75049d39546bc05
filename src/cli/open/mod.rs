//! `claviger open`: the agent's own page, for a person at a desk.
//!
//! The page is an application of the agent's API, and has its rights. A browser cannot connect to the API: it is a Unix socket
//! as a rule, and on the loopback interface it refuses browsers. So this command listens on the loopback interface for as long
//! as it runs, asks the API, and renders what it answers.

mod actions;
mod app;
mod check;
mod frame;
mod guard;
mod local_user;
mod pages;
mod plot;
mod show;

use std::{
    net::{Ipv4Addr, SocketAddr},
    process::{Command, Stdio},
    sync::Arc,
    time::Duration,
};

use axum::{
    Router,
    extract::DefaultBodyLimit,
    middleware::{from_fn_with_state, map_response},
    routing::{get, post},
};
use serde_json::{Value, json};
use tokio::net::TcpListener;

use super::{agent_client::AgentClient, config::Config, failure::Failure, output::Out, runtime::block_on};
use app::App;
use guard::Guard;

/// Opens the agent's own page in the browser
///
/// The page shows tokens, DIDs, contacts, received and outgoing messages, invitations, and what waits. It can do what an
/// application of the agent can do. This command serves it on this machine, to this user, until Ctrl-C. The link that it opens
/// works once.
#[derive(clap::Args)]
pub struct Args {
    /// Prints the link, and opens no browser
    #[arg(long)]
    no_browser: bool,
    /// Ends after this many minutes without a request
    #[arg(long, value_name = "MINUTES", default_value_t = 60, value_parser = clap::value_parser!(u32).range(1..))]
    idle: u32,
}

/// The largest form, in bytes.
const MAX_FORM: usize = 256 * 1024;

pub fn run(args: &Args, config: &Config, out: &Out) -> Result<(), Failure> {
    let client = AgentClient::new(config)?;
    block_on(async {
        // An agent that does not run is reported here, not in the browser.
        client.get::<Value>("/v1/status").await?;
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await;
        let listener = listener.map_err(|error| Failure::io("the loopback interface", &error))?;
        let address = listener.local_addr().map_err(|error| Failure::io("the loopback interface", &error))?;
        let guard = Guard::new(address)?;
        let link = guard.link();
        let app = Arc::new(App { client, guard });
        if out.json {
            out.json_line(&json!({ "url": link }))?;
        } else if args.no_browser || !open_browser(&link) {
            out.say("Open this link. It works once, until Ctrl-C ends this command:");
            out.line(&link)?;
        } else {
            out.say("The agent's page is in your browser. End it with Ctrl-C.");
        }
        let service = router(app.clone()).into_make_service_with_connect_info::<SocketAddr>();
        let idle = Duration::from_secs(60 * u64::from(args.idle));
        let served = axum::serve(listener, service);
        tokio::select! {
            ended = served.into_future() => ended.map_err(|error| Failure::io("the loopback interface", &error)),
            _ = tokio::signal::ctrl_c() => Ok(()),
            () = app.guard.idle_for(idle) => {
                out.say("The page was not used, and is closed.");
                Ok(())
            }
        }
    })
}

fn router(app: Arc<App>) -> Router {
    Router::new()
        .route("/", get(pages::overview::page))
        .route("/tokens", get(pages::tokens::page))
        .route("/dids", get(pages::dids::page))
        .route("/contacts", get(pages::contacts::page))
        .route("/contacts/label", post(actions::label))
        .route("/contacts/block", post(actions::block))
        .route("/contacts/send", post(actions::send))
        .route("/inbox", get(pages::inbox::page))
        .route("/inbox/acknowledge", post(actions::acknowledge))
        .route("/inbox/reply", post(actions::reply_to))
        .route("/outbox", get(pages::outbox::page))
        .route("/outbox/cancel", post(actions::cancel))
        .route("/outbox/retry", post(actions::retry))
        .route("/invitations", get(pages::invitations::page))
        .route("/invitations/create", post(actions::invite))
        .route("/invitations/revoke", post(actions::revoke))
        .route("/invitations/accept", post(actions::accept))
        .route(frame::STYLE_PATH, get(frame::style))
        .route("/page.js", get(frame::script))
        .fallback(frame::unknown_page)
        .layer(DefaultBodyLimit::max(MAX_FORM))
        .layer(from_fn_with_state(app.clone(), check::check))
        .layer(map_response(frame::harden))
        .with_state(app)
}

/// Starts the browser of the session. Returns whether there is one.
fn open_browser(link: &str) -> bool {
    let program = if cfg!(target_os = "macos") { "open" } else { "xdg-open" };
    let has_screen = cfg!(target_os = "macos")
        || ["DISPLAY", "WAYLAND_DISPLAY"].iter().any(|name| std::env::var_os(name).is_some_and(|it| !it.is_empty()));
    let mut command = Command::new(program);
    command.arg(link).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    match has_screen.then(|| command.spawn()) {
        Some(Ok(mut child)) => {
            std::thread::spawn(move || child.wait());
            true
        }
        _ => false,
    }
}
