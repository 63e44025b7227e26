//! How the server itself is.

use std::path::Path;

use crate::{
    AppState, start,
    store::StoreError,
    web::{
        pieces::{Badge, grouped},
        time::iso,
    },
};

const DAY_MS: i64 = 24 * 60 * 60 * 1000;
/// A certificate that ends sooner is warned of: an ACME authority's is renewed long before.
const TLS_DAYS_LOW: i64 = 14;
/// Less free space is warned of: 64 images of the largest size.
const FREE_BYTES_LOW: u64 = 1024 * 1024 * 1024;

/// A fact, and how good it is.
pub struct Fact {
    pub name: &'static str,
    pub text: String,
    pub badge: Badge,
}

/// Disk, database, TLS and MQTT.
pub async fn facts(state: &AppState) -> Result<Vec<Fact>, StoreError> {
    Ok(vec![
        disk(&state.config.data),
        database(state).await?,
        tls(state),
        mqtt(state),
    ])
}

fn fact(name: &'static str, text: impl Into<String>, tone: &'static str) -> Fact {
    let badge = match tone {
        "ok" => Badge::new("tick", "good", tone),
        "bad" => Badge::new("cross", "bad", tone),
        "warn" => Badge::new("warn", "look at it", tone),
        _ => Badge::new("dash", "off", tone),
    };
    let text = text.into();
    Fact { name, text, badge }
}

fn disk(data: &Path) -> Fact {
    let name = "Disk";
    match rustix::fs::statvfs(data) {
        Ok(disk) => {
            let free = disk.f_bavail.saturating_mul(disk.f_frsize);
            let all = disk.f_blocks.saturating_mul(disk.f_frsize).max(1);
            let mib = |bytes: u64| grouped(bytes / 1024 / 1024);
            let percent = u128::from(free) * 100 / u128::from(all);
            let text = format!("{} of {} MiB free ({percent} %)", mib(free), mib(all));
            let tone = if free < FREE_BYTES_LOW { "warn" } else { "ok" };
            fact(name, text, tone)
        }
        Err(error) => fact(name, format!("not known: {error}"), "warn"),
    }
}

async fn database(state: &AppState) -> Result<Fact, StoreError> {
    state.store.ping().await?;
    let engine = state.store.engine();
    let size =
        |name: &str| std::fs::metadata(state.config.data.join(name)).map_or(0, |it| it.len());
    let bytes = size(start::SQLITE_FILE) + size(&format!("{}-wal", start::SQLITE_FILE));
    let text = match (&state.config.db, bytes) {
        (None, bytes) => format!("{engine}, {} KiB, answers", grouped(bytes.div_ceil(1024))),
        (Some(_), _) => format!("{engine}, answers"),
    };
    Ok(fact("Database", text, "ok"))
}

fn tls(state: &AppState) -> Fact {
    let name = "TLS";
    let Some(tls) = state.health.tls.get() else {
        return fact(name, "this server speaks plain HTTP", "idle");
    };
    let Some(end) = tls.end_ms() else {
        return fact(name, "there is no certificate yet", "bad");
    };
    let days = (end - state.now_ms()).div_euclid(DAY_MS);
    let (text, tone) = match days {
        ..0 => (format!("the certificate ended at {}", iso(end)), "bad"),
        days => {
            let tone = if days < TLS_DAYS_LOW { "warn" } else { "ok" };
            (
                format!("the certificate ends in {days} days, at {}", iso(end)),
                tone,
            )
        }
    };
    fact(name, text, tone)
}

fn mqtt(state: &AppState) -> Fact {
    let name = "MQTT";
    let Some(settings) = &state.config.mqtt else {
        return fact(name, "no broker: fota serve --mqtt", "idle");
    };
    let broker = settings.broker.name();
    match state.health.mqtt_away() {
        None => fact(name, format!("connected to {broker}"), "ok"),
        Some(why) => fact(name, format!("{broker} is away: {why}"), "bad"),
    }
}
