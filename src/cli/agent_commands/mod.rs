//! The commands that talk to a running agent through its API.

mod accept;
mod choose_did;
mod connections;
mod inbox;
mod invite;
pub mod mediator;
pub mod outbox;
mod peer;
mod ping;
pub mod reply;
mod send;
mod status;
pub mod webhook;

pub use accept::Args as AcceptArgs;
pub use choose_did::choose_own_did;
pub use connections::Args as ConnectionsArgs;
pub use inbox::Args as InboxArgs;
pub use invite::Args as InviteArgs;
pub use ping::Args as PingArgs;
pub use reply::Args as ReplyArgs;
pub use send::{Args as SendArgs, BASIC_MESSAGE};
pub use status::Args as StatusArgs;

use super::{agent_client::AgentClient, config::Config, failure::Failure, output::Out, runtime::block_on};

/// A command that talks to a running agent, with its arguments.
pub enum AgentCommand {
    Send(SendArgs),
    Ping(PingArgs),
    Inbox(InboxArgs),
    Reply(ReplyArgs),
    Invite(InviteArgs),
    Accept(AcceptArgs),
    Connections(ConnectionsArgs),
    Status(StatusArgs),
}

pub fn run(command: &AgentCommand, config: &Config, out: &Out) -> Result<(), Failure> {
    let client = AgentClient::new(config)?;
    // Ending a connection starts the keepers' supervisor, which must happen before the runtime has threads.
    if let AgentCommand::Connections(args) = command {
        return connections::run(args, &client, config, out);
    }
    block_on(async {
        match command {
            AgentCommand::Send(args) => send::run(args, &client, out).await,
            AgentCommand::Ping(args) => ping::run(args, &client, out).await,
            AgentCommand::Inbox(args) => inbox::run(args, &client, out).await,
            AgentCommand::Reply(args) => reply::run(args, &client, out).await,
            AgentCommand::Invite(args) => invite::run(args, &client, out).await,
            AgentCommand::Accept(args) => accept::run(args, &client, out).await,
            AgentCommand::Status(args) => status::run(args, &client, out).await,
            AgentCommand::Connections(_) => Ok(()),
        }
    })
}
