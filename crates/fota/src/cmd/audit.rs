//! `fota audit …`

use std::{
    fs::File,
    io::{BufRead, BufReader, Write},
    path::Path,
};

use fota_proto::operators::AuditEntry;
use fota_server::domain::audit::{Broken, Head, Verifier};
use serde_json::json;

use crate::{
    args::AuditCommand,
    context::Context,
    failure::{Exit, Failure, Result},
    output::{self, Mark},
    text,
};

pub async fn run(context: &Context, command: AuditCommand) -> Result {
    match command {
        AuditCommand::List { limit } => list(context, limit).await,
        AuditCommand::Export { output, force } => export(context, output.as_deref(), force).await,
        AuditCommand::Verify { file, head } => {
            let verifier = Verifier::new(head);
            let found = match file {
                Some(path) => verify_file(&path, verifier)?,
                None => verify_server(context, verifier).await?,
            };
            tell(context, found, head)
        }
    }
}

/// Gives each entry of the server's log to `take`, oldest first.
async fn each(context: &Context, mut take: impl FnMut(AuditEntry)) -> Result {
    let client = context.client()?;
    let mut after = 0;
    loop {
        let page = client.audit(after).await?;
        let last = page.items.last().map_or(after, |entry| entry.seq);
        page.items.into_iter().for_each(&mut take);
        // A place that does not grow would never end.
        if page.next.is_none() || last <= after {
            return Ok(());
        }
        after = last;
    }
}

async fn list(context: &Context, limit: u32) -> Result {
    let limit = limit as usize;
    let mut newest = std::collections::VecDeque::new();
    each(context, |entry| {
        newest.push_back(entry);
        if newest.len() > limit {
            newest.pop_front();
        }
    })
    .await?;
    let entries = Vec::from(newest);
    let row = |entry: &AuditEntry| {
        vec![
            entry.seq.to_string(),
            text::time(entry.at),
            text::plain(&entry.actor),
            text::plain(&entry.action),
            text::plain(&entry.object),
            text::plain(&entry.detail),
        ]
    };
    let rows: Vec<Vec<String>> = entries.iter().map(row).collect();
    let heading = ["SEQ", "AT (UTC)", "WHO", "DID", "TO", "DETAIL"];
    context.out.answer(&text::table(&heading, &rows));
    context.out.document("fota.audit/1", &entries);
    Ok(())
}

/// The lines go out as they come: they are an answer for programs already.
async fn export(context: &Context, path: Option<&Path>, force: bool) -> Result {
    let mut lines = context.client()?.audit_export().await?;
    let mut file = path.map(|path| create(path, force)).transpose()?;
    while let Some(bytes) = lines.chunk().await? {
        match (&mut file, path) {
            (Some(file), Some(path)) => file
                .write_all(&bytes)
                .map_err(|error| file_failure(path, &error))?,
            _ => output::to_stdout(&String::from_utf8_lossy(&bytes)),
        }
    }
    if let (Some(file), Some(path)) = (file, path) {
        file.sync_all()
            .map_err(|error| file_failure(path, &error))?;
        let text = format!("the audit log is in {}", path.display());
        context.out.note(Mark::Good, &text);
    }
    Ok(())
}

fn create(path: &Path, force: bool) -> Result<File> {
    if path.exists() && !force {
        let message = format!("{} exists", path.display());
        return Err(Failure::refused("file_exists", message).hint("add --force to write over it"));
    }
    File::create(path).map_err(|error| file_failure(path, &error))
}

fn file_failure(path: &Path, error: &std::io::Error) -> Failure {
    Failure::error(format!("{}: {error}", path.display()))
}

type Found = std::result::Result<Head, Broken>;

fn verify_file(path: &Path, mut verifier: Verifier) -> Result<Found> {
    let file = File::open(path).map_err(|error| file_failure(path, &error))?;
    for (number, line) in (1..).zip(BufReader::new(file).lines()) {
        let line = line.map_err(|error| file_failure(path, &error))?;
        let entry: AuditEntry = serde_json::from_str(&line).map_err(|error| {
            let number: u64 = number;
            let message = format!(
                "{} line {number} is no audit entry: {error}",
                path.display()
            );
            broken(message)
        })?;
        if let Err(broken) = verifier.next(&entry) {
            return Ok(Err(broken));
        }
    }
    Ok(verifier.end())
}

async fn verify_server(context: &Context, mut verifier: Verifier) -> Result<Found> {
    let mut first = Ok(());
    each(context, |entry| {
        if first.is_ok() {
            first = verifier.next(&entry);
        }
    })
    .await?;
    Ok(first.and_then(|()| verifier.end()))
}

fn tell(context: &Context, found: Found, known: Option<Head>) -> Result {
    let head = found.map_err(|error| broken(error.to_string()))?;
    let number = text::count(u64::try_from(head.seq).unwrap_or(0), "entry");
    let number = number.replace("entrys", "entries");
    let against = match known {
        Some(known) => format!(" and still holds entry {} as it was noted", known.seq),
        None => String::new(),
    };
    let line = format!("the audit log is whole: {number}{against}");
    context.out.verdict(Mark::Good, &line);
    context.out.answer(&format!("head  {head}\n"));
    if known.is_none() {
        let advice = "note the head elsewhere: `--head` compares a later log with it";
        context.out.say(advice);
    }
    context.out.document(
        "fota.audit-verify/1",
        &json!({"whole": true, "entries": head.seq, "head": head.to_string()}),
    );
    Ok(())
}

fn broken(message: String) -> Failure {
    Failure::new(Exit::Refused, "audit_broken", message)
        .hint("keep a copy as it is; somebody who can write to the database has changed it")
}
