//! What many open dashboards ask for at the same time, rendered once.
//!
//! Whoever asks gets a rendering that began after they asked, so nobody sees less than with one of
//! their own. Those who ask while one is made share the next; between two there is a pause in
//! proportion to what one costs, so that any number of dashboards costs a bounded share of a core.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::time::{Instant, sleep_until};

use super::fault::Fault;

/// Different renderings that are kept; more are made afresh.
const SHARED_MAX: usize = 64;
/// A rendering may take one of so many parts of the time.
const SHARE: u32 = 8;
/// Nobody waits longer than this for the next one to begin.
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// Renderings by what they depend on.
#[derive(Default)]
pub struct SharedScreens(Mutex<HashMap<String, Arc<Turn>>>);

type Turn = tokio::sync::Mutex<Option<Made>>;

struct Made {
    began: Instant,
    /// When the next may begin.
    next: Instant,
    html: Arc<str>,
}

impl SharedScreens {
    /// The rendering of `key`: one that somebody else has just had made, or a new one.
    pub async fn rendered(
        &self,
        key: String,
        render: impl AsyncFnOnce() -> Result<String, Fault>,
    ) -> Result<Arc<str>, Fault> {
        let asked = Instant::now();
        let turn = self.turn(key);
        let mut made = turn.lock().await;
        if let Some(made) = made.as_ref().filter(|made| made.began > asked) {
            return Ok(Arc::clone(&made.html));
        }
        if let Some(made) = made.as_ref() {
            sleep_until(made.next).await;
        }
        let began = Instant::now();
        let html: Arc<str> = render().await?.into();
        let cost = began.elapsed();
        let next = Instant::now() + (cost * (SHARE - 1)).min(PAUSE_MAX);
        *made = Some(Made {
            began,
            next,
            html: Arc::clone(&html),
        });
        Ok(html)
    }

    fn turn(&self, key: String) -> Arc<Turn> {
        let mut turns = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if turns.len() >= SHARED_MAX && !turns.contains_key(&key) {
            turns.clear();
        }
        Arc::clone(turns.entry(key).or_default())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    #[tokio::test]
    async fn a_hundred_who_ask_at_once_cost_two_renderings_and_see_the_newest() {
        let shared = Arc::new(SharedScreens::default());
        let rendered = Arc::new(AtomicU32::new(0));
        let mut asking = tokio::task::JoinSet::new();
        for _ in 0..100 {
            let (shared, rendered) = (shared.clone(), rendered.clone());
            asking.spawn(async move {
                let html = shared.rendered("fleet".to_owned(), async || {
                    let number = rendered.fetch_add(1, Ordering::SeqCst) + 1;
                    tokio::time::sleep(Duration::from_millis(20)).await;
                    Ok(number.to_string())
                });
                html.await.map(|html| html.to_string()).unwrap_or_default()
            });
        }
        let seen = asking.join_all().await;
        assert!(rendered.load(Ordering::SeqCst) <= 2, "{rendered:?}");
        assert_eq!(seen.len(), 100);
        // Who asks later gets a later one.
        let later = shared.rendered("fleet".to_owned(), async || Ok("later".to_owned()));
        assert_eq!(
            later.await.map(|html| html.to_string()).ok(),
            Some("later".to_owned())
        );
    }
}
