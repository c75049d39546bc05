//! `claviger webhook`: lists and resumes webhooks; lists, resends and drops dead letters.

use serde_json::{Value, json};

use crate::cli::{
    agent_client::{AgentClient, percent_encoded},
    config::Config,
    failure::Failure,
    output::{DIM, NAME, Out, count, printable},
    runtime::block_on,
    unix_time::unix_time,
};

/// Lists the webhooks and their dead letters; resumes, resends, drops
#[derive(clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(clap::Subcommand)]
enum Command {
    List(ListArgs),
    Resume(ResumeArgs),
    DeadLetters(DeadLettersArgs),
    Resend(ResendArgs),
    Drop(DropArgs),
}

/// Lists the webhooks, and tells what each is doing
#[derive(clap::Args)]
struct ListArgs {}

/// Resumes webhooks whose receivers wanted no more; one that waits for its next attempt makes it now
#[derive(clap::Args)]
struct ResumeArgs {
    /// The names of the webhooks
    #[arg(required = true, value_name = "NAME")]
    names: Vec<String>,
}

/// Lists the messages and events that webhooks have set aside, and tells why
///
/// A message among them waits in the inbox too.
#[derive(clap::Args)]
struct DeadLettersArgs {
    /// Only those of this webhook
    #[arg(long, value_name = "NAME")]
    webhook: Option<String>,
    /// Shows this many at most
    #[arg(long, value_name = "NUMBER", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..))]
    limit: u32,
}

/// Posts dead letters again, soon and out of their order
///
/// A letter that the receiver accepts is no dead letter any more. `claviger webhook dead-letters` shows the others.
#[derive(clap::Args)]
struct ResendArgs {
    /// The IDs of the dead letters, or the beginnings of them, of at least 4 characters, with or without the webhook's name
    #[arg(required_unless_present = "all", value_name = "ID")]
    ids: Vec<String>,
    /// All dead letters
    #[arg(long, conflicts_with = "ids")]
    all: bool,
    /// With `--all`: only those of this webhook
    #[arg(long, value_name = "NAME", requires = "all")]
    webhook: Option<String>,
}

/// Drops dead letters: their webhooks do not get them
///
/// A message that no other webhook wants is acknowledged, and its content is deleted.
#[derive(clap::Args)]
struct DropArgs {
    /// The IDs of the dead letters, or the beginnings of them, of at least 4 characters, with or without the webhook's name
    #[arg(required = true, value_name = "ID")]
    ids: Vec<String>,
}

/// The fewest characters of the beginning of an id that name a dead letter.
const SHORTEST_BEGINNING: usize = 4;

pub fn run(args: &Args, config: &Config, out: &Out) -> Result<(), Failure> {
    let client = AgentClient::new(config)?;
    block_on(async {
        match &args.command {
            None | Some(Command::List(ListArgs {})) => list(&client, out).await,
            Some(Command::Resume(args)) => resume(args, &client, out).await,
            Some(Command::DeadLetters(args)) => dead_letters(args, &client, out).await,
            Some(Command::Resend(args)) => resend(args, &client, out).await,
            Some(Command::Drop(args)) => drop_letters(args, &client, out).await,
        }
    })
}

async fn list(client: &AgentClient, out: &Out) -> Result<(), Failure> {
    let webhooks = client.get_all("/v1/webhooks", "webhooks").await?;
    if out.json {
        return out.document(&json!({ "webhooks": webhooks }));
    }
    webhooks.iter().try_for_each(|webhook| show_webhook(webhook, out))?;
    out.say(&count(webhooks.len(), "webhook"));
    Ok(())
}

/// Prints a webhook: its name, its host and its state on one line, and below why it does not deliver.
fn show_webhook(webhook: &Value, out: &Out) -> Result<(), Failure> {
    let text = |name: &str| webhook[name].as_str().unwrap_or_default();
    let next = webhook["next_try"].as_i64().map_or(String::new(), |time| {
        let seconds = (time / 1000).saturating_sub(unix_time()).max(0);
        format!(", next try in {seconds} s")
    });
    let dead = match webhook["dead_letters"].as_u64().unwrap_or_default() {
        0 => String::new(),
        dead => format!(", {}", count(usize::try_from(dead).unwrap_or(usize::MAX), "dead letter")),
    };
    let (name, host, state) = (text("name"), printable(text("host")), text("state"));
    out.line(&format!("{NAME}{name}{NAME:#} on {host} {state}{next}{dead}"))?;
    match webhook["problem"].as_str() {
        Some(problem) => {
            let failures = usize::try_from(webhook["failures"].as_u64().unwrap_or_default()).unwrap_or(usize::MAX);
            out.line(&format!("  {} after {}", printable(problem), count(failures, "failure")))
        }
        None => Ok(()),
    }
}

async fn resume(args: &ResumeArgs, client: &AgentClient, out: &Out) -> Result<(), Failure> {
    let mut webhooks = Vec::new();
    for name in &args.names {
        let path = format!("/v1/webhooks/{}/resume", percent_encoded(name));
        let webhook = client.post::<Value>(&path, &json!({})).await;
        webhooks.push(webhook.map_err(|failure| match failure.code {
            "not-found" => failure.hint("`claviger webhook` lists the webhooks"),
            _ => failure,
        })?);
        if !out.json {
            out.line(name)?;
        }
    }
    out.say(&format!("Resumed {}.", count(args.names.len(), "webhook")));
    if out.json { out.document(&json!({ "webhooks": webhooks })) } else { Ok(()) }
}

async fn dead_letters(args: &DeadLettersArgs, client: &AgentClient, out: &Out) -> Result<(), Failure> {
    let mut letters = all(args.webhook.as_deref(), args.limit as usize, client).await?;
    // Oldest first: the API has them by id.
    letters.sort_by_key(|letter| letter["since"].as_i64());
    if out.json {
        return out.document(&json!({ "dead_letters": letters }));
    }
    letters.iter().try_for_each(|letter| show_letter(letter, out))?;
    out.say(&count(letters.len(), "dead letter"));
    Ok(())
}

/// Reads the dead letters of a webhook, or of all.
async fn all(webhook: Option<&str>, limit: usize, client: &AgentClient) -> Result<Vec<Value>, Failure> {
    let filter = webhook.map(|name| format!("&webhook={}", percent_encoded(name))).unwrap_or_default();
    Ok(client.get_pages("/v1/dead-letters", &filter, "dead_letters", limit).await?.0)
}

/// Prints a dead letter: its id and what it is on one line, and below why it is dead.
fn show_letter(letter: &Value, out: &Out) -> Result<(), Failure> {
    let text = |name: &str| letter[name].as_str().unwrap_or_default();
    let kind = letter["type"].as_str().unwrap_or(text("event"));
    let kind = printable(kind.strip_prefix("https://didcomm.org/").unwrap_or(kind));
    let soon = if letter["resending"] == true { " is posted again soon" } else { "" };
    out.line(&format!("{NAME}{}{NAME:#} {DIM}{kind}{DIM:#}{soon}", text("id")))?;
    let attempts = usize::try_from(letter["attempts"].as_u64().unwrap_or_default()).unwrap_or(usize::MAX);
    out.line(&format!("  {} after {}", printable(text("problem")), count(attempts, "attempt")))
}

async fn resend(args: &ResendArgs, client: &AgentClient, out: &Out) -> Result<(), Failure> {
    let ids = match args.all {
        true => ids(&all(args.webhook.as_deref(), usize::MAX, client).await?),
        false => args.ids.clone(),
    };
    let mut letters = Vec::new();
    for named in &ids {
        let post = async |id: String| client.post::<Value>(&format!("{}/resend", path(&id)), &json!({})).await;
        let letter = match args.all {
            true => post(named.clone()).await,
            false => for_letter(named, client, post).await.map(|(_, letter)| letter),
        };
        let letter = match letter {
            Ok(letter) => letter,
            // It was accepted or acknowledged since it was listed.
            Err(failure) if args.all && failure.code == "not-found" => continue,
            Err(failure) => return Err(failure),
        };
        if !out.json {
            out.line(letter["id"].as_str().unwrap_or(named))?;
        }
        letters.push(letter);
    }
    out.say(&format!("Posting {} again.", count(letters.len(), "dead letter")));
    if out.json { out.document(&json!({ "dead_letters": letters })) } else { Ok(()) }
}

async fn drop_letters(args: &DropArgs, client: &AgentClient, out: &Out) -> Result<(), Failure> {
    let mut dropped = Vec::new();
    for named in &args.ids {
        let delete = async |id: String| client.delete::<Value>(&path(&id)).await;
        let (id, _) = for_letter(named, client, delete).await?;
        if !out.json {
            out.line(&id)?;
        }
        dropped.push(id);
    }
    out.say(&format!("Dropped {}.", count(dropped.len(), "dead letter")));
    if out.json { out.document(&json!({ "dropped": dropped })) } else { Ok(()) }
}

fn path(id: &str) -> String {
    format!("/v1/dead-letters/{}", percent_encoded(id))
}

fn ids(letters: &[Value]) -> Vec<String> {
    letters.iter().filter_map(|letter| letter["id"].as_str().map(str::to_owned)).collect()
}

/// Makes a request for the dead letter that an id, or the beginning of one, names. Returns its id too.
async fn for_letter(
    named: &str,
    client: &AgentClient,
    request: impl AsyncFn(String) -> Result<Value, Failure>,
) -> Result<(String, Value), Failure> {
    let done = match request(named.to_owned()).await {
        Err(failure) if failure.code == "not-found" => match find(named, client).await? {
            Some(id) => request(id.clone()).await.map(|answer| (id, answer)),
            None => Err(failure.hint("`claviger webhook dead-letters` shows the dead letters and their IDs")),
        },
        done => done.map(|answer| (named.to_owned(), answer)),
    };
    done.map_err(|failure| Failure { message: format!("{named}: {}", failure.message), ..failure })
}

/// The id of the dead letter whose id begins so, with or without the name of its webhook. None if no letter is meant.
async fn find(beginning: &str, client: &AgentClient) -> Result<Option<String>, Failure> {
    let (webhook, letter) = beginning.split_once(':').map_or((None, beginning), |(name, id)| (Some(name), id));
    if letter.len() < SHORTEST_BEGINNING {
        return Ok(None);
    }
    let is_meant = |id: &String| id.split_once(':').is_some_and(|(_, it)| it.starts_with(letter));
    let mut found = ids(&all(webhook, usize::MAX, client).await?);
    found.retain(is_meant);
    match found.len() {
        0 | 1 => Ok(found.pop()),
        number => {
            let message = format!("the IDs of {number} dead letters begin with {beginning:?}");
            Err(Failure::usage("name-ambiguous", message).hint("more of the ID, and the webhook's name, name one"))
        }
    }
}
