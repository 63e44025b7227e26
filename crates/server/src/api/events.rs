use std::{collections::VecDeque, convert::Infallible, sync::Arc, time::Duration};

use axum::{
    Json,
    extract::State,
    http::HeaderMap,
    response::sse::{self, KeepAlive, Sse},
};
use fota_proto::manager::{Event, Page, Problem};
use futures_util::{Stream, stream};
use serde::Deserialize;
use tokio::{
    sync::broadcast::{self, error::RecvError},
    time::Instant,
};

use super::{
    extract::Query,
    page::{after, limit, page},
    problem::Refusal,
};
use crate::{
    AppState,
    auth::identify,
    domain::notify::{FilterError, KindFilter},
    hub::News,
    service::rollouts::device_id,
    store::{EventFilter, StoreError},
};

/// Stored events sent before the stream looks for newer ones.
const BATCH: i64 = 500;
/// How often a stream looks for events of other nodes, and says that it is still there.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// After a change, how long more of them are waited for: many become one look.
const COALESCE: Duration = Duration::from_millis(100);
const KEEP_ALIVE: Duration = Duration::from_secs(15);
/// How often a stream asks whether its reader may still read: what was revoked ends so soon.
const ADMIT_INTERVAL: Duration = Duration::from_secs(5);

/// Which events to list.
#[derive(Debug, Default, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct EventQuery {
    /// Only of this device.
    pub device: Option<String>,
    /// Only of this rollout: 42 or r-42.
    pub rollout: Option<String>,
    /// `next` of the page before, or any event id.
    pub after: Option<String>,
    /// Rows, 1 to 1,000; 100 if absent.
    pub limit: Option<u32>,
}

/// History, oldest first.
#[utoipa::path(get, path = "/api/v1/events", tag = "events", params(EventQuery),
    responses((status = 200, body = Page<Event>), (status = 400, body = Problem)))]
pub async fn list(
    State(state): State<AppState>,
    Query(query): Query<EventQuery>,
) -> Result<Json<Page<Event>>, Refusal> {
    let limit = limit(query.limit)?;
    let device = query.device.as_deref();
    let filter = EventFilter {
        device: device
            .map(|id| device_id("device", id).map(|id| id.to_string()))
            .transpose()?,
        rollout: rollout(query.rollout.as_deref())?,
        after: after(query.after.as_deref())?.unwrap_or(0),
        limit,
    };
    let items = state.store.read().await?.events(&filter).await?;
    Ok(Json(page(items, limit, |event: &Event| {
        event.id.to_string()
    })))
}

fn rollout(text: Option<&str>) -> Result<Option<i64>, Refusal> {
    let Some(text) = text else {
        return Ok(None);
    };
    let number = text.strip_prefix("r-").unwrap_or(text).parse();
    let shown: String = text.chars().take(40).collect();
    number.map(Some).map_err(|_| {
        let detail = format!("rollout is {shown:?}: give a rollout such as r-42");
        Refusal::field("rollout", detail)
    })
}

/// Which events to stream.
#[derive(Debug, Default, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct StreamQuery {
    /// Only of this rollout: 42 or r-42.
    pub rollout: Option<String>,
    /// Only of this device.
    pub device: Option<String>,
    /// Only of these kinds, with commas between them: `attempt.failed,rollout.*`.
    pub kinds: Option<String>,
    /// Begin after this event id; `Last-Event-ID` goes before it.
    pub after: Option<String>,
}

/// Events as they happen: `id`, `event` and `data` lines. A stream that is opened again with
/// `Last-Event-ID` misses no stored event; progress is streamed only, without an id.
#[utoipa::path(get, path = "/api/v1/events/stream", tag = "events",
    params(StreamQuery, ("Last-Event-ID" = Option<i64>, Header, description = "Go on after this event")),
    responses((status = 200, content_type = "text/event-stream", body = String), (status = 400, body = Problem)))]
pub async fn stream(
    State(state): State<AppState>,
    Query(query): Query<StreamQuery>,
    headers: HeaderMap,
) -> Result<Sse<impl Stream<Item = Result<sse::Event, Infallible>>>, Refusal> {
    let rollout = rollout(query.rollout.as_deref())?;
    let device = query.device.as_deref();
    let device = device.map(|id| device_id("device", id)).transpose()?;
    let kinds = query.kinds.as_deref().map(str::parse).transpose();
    let kinds =
        kinds.map_err(|error: FilterError| Refusal::field("kinds", format!("kinds: {error}")))?;
    // Listening begins before the history is read, so that nothing falls between.
    let news = state.hub.listen();
    let last = match headers.get("last-event-id") {
        Some(value) => last_event_id(value.to_str().unwrap_or("?"))?,
        None => match after(query.after.as_deref())? {
            Some(after) => after,
            None => state.store.read().await?.last_event_id().await?,
        },
    };
    let listener = Listener {
        state,
        headers,
        admitted_at: Instant::now(),
        news,
        rollout,
        device: device.map(|id| id.to_string()),
        kinds,
        last,
        must_look: true,
        ready: VecDeque::new(),
    };
    let events = stream::unfold(listener, |mut listener| async {
        let event = listener.next().await?;
        Some((Ok(event), listener))
    });
    Ok(Sse::new(events).keep_alive(KeepAlive::new().interval(KEEP_ALIVE)))
}

fn last_event_id(text: &str) -> Result<i64, Refusal> {
    let number = text.parse().ok().filter(|id: &i64| *id >= 0);
    let shown: String = text.chars().take(40).collect();
    number.ok_or_else(|| {
        let detail = format!("Last-Event-ID is {shown:?}: give the id of an event");
        Refusal::field("last-event-id", detail)
    })
}

/// One open stream.
struct Listener {
    state: AppState,
    /// What the stream was opened with, and when it was last looked at.
    headers: HeaderMap,
    admitted_at: Instant,
    news: broadcast::Receiver<News>,
    rollout: Option<i64>,
    device: Option<String>,
    kinds: Option<KindFilter>,
    /// The last stored event that was sent or left out.
    last: i64,
    /// Whether the history may have grown since it was last read.
    must_look: bool,
    ready: VecDeque<Arc<Event>>,
}

impl Listener {
    /// The next event to send; none when the server ends or the database fails, so that the
    /// listener opens the stream again, and when it may not read any more.
    async fn next(&mut self) -> Option<sse::Event> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Some(frame(&event));
            }
            let read = match self.may_read().await {
                Ok(true) => self.read_history().await,
                Ok(false) => return None,
                Err(error) => Err(error),
            };
            if let Err(error) = read {
                tracing::error!(%error, "an event stream ends");
                return None;
            }
            if self.ready.is_empty() {
                self.wait().await?;
            }
        }
    }

    async fn may_read(&mut self) -> Result<bool, StoreError> {
        if self.admitted_at.elapsed() < ADMIT_INTERVAL {
            return Ok(true);
        }
        self.admitted_at = Instant::now();
        let known = identify(&self.state, &self.headers).await?;
        Ok(known.is_some())
    }

    /// Reads on to the next event that is wanted, or to the end.
    async fn read_history(&mut self) -> Result<(), StoreError> {
        if !self.must_look {
            return Ok(());
        }
        let recent = self
            .state
            .recent
            .after(&self.state.store, self.last)
            .await?;
        let Some(events) = recent else {
            return self.read_back().await;
        };
        self.must_look = false;
        for event in events {
            self.last = event.id;
            if self.wants(&event) {
                self.ready.push_back(event);
            }
        }
        Ok(())
    }

    /// The same for a listener that is far behind.
    async fn read_back(&mut self) -> Result<(), StoreError> {
        let mut tx = self.state.store.read().await?;
        loop {
            let filter = EventFilter {
                device: self.device.clone(),
                rollout: self.rollout,
                after: self.last,
                limit: BATCH,
            };
            let events = tx.events(&filter).await?;
            let is_end = (events.len() as i64) < BATCH;
            for event in events {
                self.last = event.id;
                if self.takes(&event) {
                    self.ready.push_back(Arc::new(event));
                }
            }
            if is_end || !self.ready.is_empty() {
                return Ok(());
            }
        }
    }

    /// Waits until something may have happened; none when the server ends.
    async fn wait(&mut self) -> Option<()> {
        let mut closing = self.state.closing.clone();
        loop {
            let news = tokio::select! {
                _ = closing.wait_for(|end| *end) => return None,
                news = tokio::time::timeout(LOOK_INTERVAL, self.news.recv()) => news,
            };
            match news {
                // Time to look for what other nodes wrote.
                Err(_) => {
                    self.must_look = true;
                    return Some(());
                }
                Ok(Ok(News::Stored)) | Ok(Err(RecvError::Lagged(_))) => {
                    self.must_look = true;
                    tokio::time::sleep(COALESCE).await;
                    self.take_news();
                    return Some(());
                }
                Ok(Ok(News::Progress(event))) if self.wants(&event) => {
                    self.ready.push_back(event);
                    return Some(());
                }
                Ok(Ok(News::Progress(_))) => {}
                Ok(Err(RecvError::Closed)) => return None,
            }
        }
    }

    /// What came meanwhile: it is dealt with in the same look.
    fn take_news(&mut self) {
        while let Ok(news) = self.news.try_recv() {
            match news {
                News::Progress(event) if self.wants(&event) => self.ready.push_back(event),
                News::Progress(_) | News::Stored => {}
            }
        }
    }

    fn wants(&self, event: &Event) -> bool {
        let is_rollout = self.rollout.is_none() || event.rollout == self.rollout;
        let is_device = self.device.is_none() || event.device == self.device;
        is_rollout && is_device && self.takes(event)
    }

    fn takes(&self, event: &Event) -> bool {
        let kinds = self.kinds.as_ref();
        kinds.is_none_or(|kinds| kinds.takes(&event.kind))
    }
}

fn frame(event: &Event) -> sse::Event {
    let json = serde_json::to_string(event).unwrap_or_else(|_| "{}".to_owned());
    let frame = sse::Event::default().event(&event.kind).data(json);
    if event.id == 0 {
        return frame;
    }
    frame.id(event.id.to_string())
}
