//! `fota event …`

use fota_client::{EventFilter, Incoming};
use fota_proto::manager::Event;

use crate::{
    args::{EventCommand, RolloutId},
    context::Context,
    failure::Result,
    output::Mark,
    text,
};

pub async fn run(context: &Context, command: EventCommand) -> Result {
    match command {
        EventCommand::List {
            device,
            rollout,
            limit,
        } => {
            let rollout = rollout.map(|rollout| rollout.0);
            let events = newest(
                context,
                EventFilter {
                    after: None,
                    device,
                    rollout,
                    limit: None,
                },
            );
            let events = events.await?;
            let from = events.len().saturating_sub(limit as usize);
            print(context, &events[from..]);
            Ok(())
        }
        EventCommand::Follow { rollout, after } => follow(context, rollout, after).await,
    }
}

/// The history to its end. It is read from the start: the server pages forward only.
async fn newest(context: &Context, mut filter: EventFilter) -> Result<Vec<Event>> {
    let client = context.client()?;
    let mut events = Vec::new();
    loop {
        let page = client.events(&filter).await?;
        let next = page.next.as_deref().and_then(|next| next.parse().ok());
        events.extend(page.items);
        // A position that does not grow would never end.
        match next {
            Some(next) if filter.after.is_none_or(|after| next > after) => {
                filter.after = Some(next)
            }
            _ => return Ok(events),
        }
    }
}

async fn follow(context: &Context, rollout: Option<RolloutId>, after: Option<i64>) -> Result {
    let mut stream = context
        .client()?
        .event_stream(rollout.map(|rollout| rollout.0), after);
    loop {
        match stream.next().await? {
            Incoming::Connected => context.out.say("following; Ctrl-C ends"),
            Incoming::Disconnected { reason } => {
                let text = format!("connection lost ({reason}); trying again");
                context.out.note(Mark::Attention, &text);
            }
            Incoming::Event(event) => {
                context.out.answer(&format!("{}\n", line(&event)));
                context.out.document("fota.event/1", &event);
            }
        }
    }
}

/// Prints events, oldest first.
pub fn print(context: &Context, events: &[Event]) {
    for event in events {
        context.out.answer(&format!("{}\n", line(event)));
    }
    context.out.document("fota.events/1", &events);
}

/// One line: when, what, whom, and a sentence.
pub fn line(event: &Event) -> String {
    let (at, kind) = (text::time(event.at), &event.kind);
    let device = event.device.as_deref().unwrap_or("-");
    let progress = match (event.bytes_done, event.bytes_total) {
        (Some(done), Some(total)) => format!(" {done}/{total}"),
        _ => String::new(),
    };
    format!(
        "{at}Z  {kind}  {device}  {}{progress}",
        text::plain(&event.text)
    )
}
