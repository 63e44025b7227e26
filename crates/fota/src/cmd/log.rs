//! `fota log …`: whether a server shows everybody the same releases.
//!
//! A server that is to give one device a release that nobody else sees must show it another log, or
//! put the release into the log. So every head that anybody was shown is held against the entries
//! as the server lists them now: a head that does not come out of them is a lie, here or there.

use std::{
    collections::BTreeMap,
    io::ErrorKind,
    path::{Path, PathBuf},
};

use fota_client::DeviceFilter;
use fota_proto::{
    Sha256,
    log::{Frontier, LogHead},
    manager::{LogEntry, Release, SeenHead},
    signed::Root,
};
use serde_json::json;

use crate::{
    args::{LogCommand, LogVerifyArgs},
    config::user_dir,
    context::Context,
    failure::{Failure, Result},
    output::Mark,
    text,
};

pub async fn run(context: &Context, command: LogCommand) -> Result {
    match command {
        LogCommand::Show => show(context).await,
        LogCommand::Verify(args) => verify(context, &args).await,
    }
}

async fn show(context: &Context) -> Result {
    let entries = context.client()?.log_entries().await?;
    let rows: Vec<Vec<String>> = entries
        .iter()
        .map(|entry| {
            let release = entry.release.map_or("-".to_owned(), |id| id.to_string());
            let digest = entry.digest.to_string();
            vec![
                entry.index.to_string(),
                digest,
                release,
                text::time(entry.at),
            ]
        })
        .collect();
    let heading = ["INDEX", "DIGEST", "RELEASE", "ADDED"];
    context.out.answer(&text::table(&heading, &rows));
    let head = *heads(&entries)
        .last()
        .expect("the empty log has a head too");
    context.out.say(&format!("head {}", written(head)));
    context.out.document("fota.log/1", &entries);
    Ok(())
}

/// A head that somebody was shown.
struct Claim {
    who: String,
    head: LogHead,
}

async fn verify(context: &Context, args: &LogVerifyArgs) -> Result {
    let path = args.state.clone().or_else(state_path);
    let mut remembered = path.as_deref().map_or(Ok(BTreeMap::new()), read)?;
    let server = context.config.server.value.trim_end_matches('/').to_owned();
    let client = context.client()?;
    // What was shown first, the entries last: a log that grows meanwhile still holds all of it.
    let head = head(context, args.root.as_deref()).await?;
    let devices = client.devices(&DeviceFilter::default()).await?;
    let releases = client.releases().await?;
    let entries = client.log_entries().await?;
    let mut claims = vec![Claim {
        who: "the server's own head".to_owned(),
        head,
    }];
    claims.extend(remembered.get(&server).map(|seen| Claim {
        who: "the last run here".to_owned(),
        head: plain(seen),
    }));
    claims.extend(args.head.iter().map(|seen| Claim {
        who: "--head".to_owned(),
        head: seen.0,
    }));
    claims.extend(devices.iter().filter_map(|device| {
        Some(Claim {
            who: format!("device {}", device.id),
            head: plain(device.log.as_ref()?),
        })
    }));
    let mut found = contradictions(&entries, &claims);
    found.extend(missing(&entries, &releases));
    if !found.is_empty() {
        return Err(forked(&found));
    }
    let seen = SeenHead {
        size: head.size,
        root: head.root,
    };
    remembered.insert(server, seen);
    if let Some(path) = &path {
        write(path, &remembered)?;
    }
    let heads = claims.len();
    let line = format!(
        "one log, as all that were asked have seen it: heads compared {heads}, newest {}",
        written(head)
    );
    context.out.verdict(Mark::Good, &line);
    let document = json!({"size": head.size, "root": head.root, "heads": heads});
    context.out.document("fota.log_verify/1", &document);
    Ok(())
}

fn forked(found: &[String]) -> Failure {
    let message = format!(
        "this server shows different logs to different parties:\n  {}",
        found.join("\n  ")
    );
    Failure::refused("log_forked", message).hint(
        "keep its data folder as it is, compare `fota log show` with what you have signed, and \
         start no rollout until you know why",
    )
}

/// The head as devices are given it, verified where there is a root.
async fn head(context: &Context, root: Option<&Path>) -> Result<LogHead> {
    let client = context.client()?;
    let object = client.log_head().await?;
    let root = match root {
        Some(path) => Some(std::fs::read(path).map_err(|error| io(path, &error))?),
        None => client.current_root().await?.map(|root| root.to_vec()),
    };
    let payload = match (&root, object.is_signed) {
        (None, false) => &object.bytes[..],
        (Some(_), false) => return Err(unproven("it is not signed, though there is a root")),
        (None, true) => return Err(unproven("it is signed, but the server names no root")),
        (Some(root), true) => {
            let root = Root::first(root).map_err(|error| {
                Failure::refused("root_invalid", format!("the root does not verify: {error}"))
            })?;
            let payload = root.answer(&object.bytes);
            payload.map_err(|error| unproven(&error.to_string()))?
        }
    };
    minicbor::decode(payload).map_err(|_| unproven("it does not decode"))
}

fn unproven(why: &str) -> Failure {
    Failure::refused(
        "head_unproven",
        format!("the head of the log is not proven: {why}"),
    )
    .hint("name the root you trust with --root FILE")
}

/// Every head that a log with these entries ever had, from the empty one.
fn heads(entries: &[LogEntry]) -> Vec<LogHead> {
    let mut frontier = Frontier::default();
    let mut heads = vec![frontier.head()];
    for entry in entries {
        frontier.push(entry.digest);
        heads.push(frontier.head());
    }
    heads
}

/// Heads that do not come out of the entries, a sentence each.
fn contradictions(entries: &[LogEntry], claims: &[Claim]) -> Vec<String> {
    let heads = heads(entries);
    let numbered = (0u64..).zip(entries);
    let gap = numbered
        .into_iter()
        .find(|(number, entry)| entry.index != *number);
    let gap = gap.map(|(number, entry)| {
        format!(
            "entry {number} is missing: the next one listed is {}",
            entry.index
        )
    });
    let wrong = claims.iter().filter_map(|Claim { who, head }| {
        let size = usize::try_from(head.size).unwrap_or(usize::MAX);
        match heads.get(size) {
            Some(here) if here == head => None,
            Some(here) => Some(format!(
                "{who}: {} entries with root {}, here the root of as many is {}",
                head.size, head.root, here.root
            )),
            None => Some(format!(
                "{who}: {} entries with root {}, here there are {}",
                head.size,
                head.root,
                entries.len()
            )),
        }
    });
    gap.into_iter().chain(wrong).collect()
}

/// Releases that the server offers and that its log does not hold.
fn missing(entries: &[LogEntry], releases: &[Release]) -> Vec<String> {
    let holds = |digest: Sha256| entries.iter().any(|entry| entry.digest == digest);
    let digest = |release: &Release| match &release.signed {
        Some(signed) => signed.digest,
        None => release.sha256,
    };
    let absent = releases.iter().filter(|release| !holds(digest(release)));
    absent
        .map(|release| {
            let version = text::plain(&release.version);
            let digest = digest(release);
            format!(
                "release {} ({version}) is not in the log as {digest}",
                release.id
            )
        })
        .collect()
}

fn written(head: LogHead) -> String {
    format!("{}:{}", head.size, head.root)
}

fn plain(seen: &SeenHead) -> LogHead {
    LogHead {
        size: seen.size,
        root: seen.root,
    }
}

fn state_path() -> Option<PathBuf> {
    user_dir().map(|dir| dir.join("log-heads.json"))
}

/// The last head of each server.
fn read(path: &Path) -> Result<BTreeMap<String, SeenHead>> {
    let text = match std::fs::read(path) {
        Ok(text) => text,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(BTreeMap::new()),
        Err(error) => return Err(io(path, &error)),
    };
    serde_json::from_slice(&text).map_err(|error| {
        Failure::error(format!("{}: {error}", path.display()))
            .hint("it holds the heads of earlier runs: restore it, or remove it to begin anew")
    })
}

/// Writes beside and renames: what is remembered must not be lost half-way.
fn write(path: &Path, heads: &BTreeMap<String, SeenHead>) -> Result {
    let text = serde_json::to_vec_pretty(heads).expect("plain data has a JSON form");
    let beside = path.with_extension("new");
    let folder = path
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty());
    let made = folder.map_or(Ok(()), std::fs::create_dir_all);
    let written = made
        .and_then(|()| std::fs::write(&beside, text))
        .and_then(|()| std::fs::rename(&beside, path));
    written.map_err(|error| io(path, &error))
}

fn io(path: &Path, error: &std::io::Error) -> Failure {
    Failure::error(format!("{}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entries(digests: &[u8]) -> Vec<LogEntry> {
        let numbered = (0..).zip(digests);
        numbered
            .map(|(index, digest)| LogEntry {
                index,
                digest: Sha256([*digest; 32]),
                release: None,
                at: 0,
            })
            .collect()
    }

    fn claim(head: LogHead) -> [Claim; 1] {
        let who = "device x".to_owned();
        [Claim { who, head }]
    }

    #[test]
    fn only_heads_of_this_log_agree() {
        let here = entries(&[1, 2, 3]);
        for head in heads(&here) {
            assert_eq!(contradictions(&here, &claim(head)), Vec::<String>::new());
        }
        let other = heads(&entries(&[1, 9, 3, 4]));
        for (size, says) in [
            (2, "root of as many"),
            (3, "root of as many"),
            (4, "there are 3"),
        ] {
            let found = contradictions(&here, &claim(other[size]));
            assert!(found[0].contains(says), "{found:?}");
        }
        assert!(
            contradictions(&here, &claim(other[1])).is_empty(),
            "the same so far"
        );
        let found = contradictions(&here[1..], &[]);
        assert!(found[0].contains("entry 0 is missing"), "{found:?}");
    }
}
