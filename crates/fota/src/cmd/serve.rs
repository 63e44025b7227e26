//! `fota serve`: the server until Ctrl-C or SIGTERM.

use std::{
    io::IsTerminal,
    net::{IpAddr, SocketAddr},
    path::Path,
};

use fota_server::{Clock, Config, Running, StartError, domain::identity};
use serde_json::json;

use crate::{
    args::{DeviceAuth, Global, ServeArgs, When},
    config::env,
    failure::{Failure, Result},
    output::{Mark, Output},
    text,
};

/// Hex digits of the seed's chunk key.
const PSK_DIGITS: usize = 64;

mod mqtt;

pub async fn run(global: &Global, args: ServeArgs) -> Result {
    let out = Output::new(global);
    log(global);
    let legacy_psk = legacy_psk(&args)?;
    let mut config = Config::new(&args.data);
    config.listen = args.listen;
    config.db = args.db;
    config.legacy_open = args.legacy_open;
    config.lab = args.lab;
    config.legacy_psk = legacy_psk;
    config.device_auth = policy(args.device_auth);
    config.legacy_allow = args.legacy_allow;
    config.online_key = args.online_key;
    config.allow_unsigned = args.allow_unsigned;
    #[cfg(feature = "oidc")]
    if let Some(path) = &args.oidc {
        config.oidc = Some(provider(path)?);
    }
    if let Some(poll_s) = args.poll {
        config.poll_s = poll_s;
    }
    if let Some(workers) = args.delta_workers {
        config.delta_workers = workers;
    }
    config.bandwidth_budget = args.bandwidth_budget;
    args.tls.apply(&mut config)?;
    config.mqtt = mqtt::settings(*args.mqtt)?;
    // Taken before the server starts: a signal must not fall between the two.
    let ended = ended()?;
    let running = fota_server::start(config, Clock::System)
        .await
        .map_err(not_started)?;
    announce(&out, &args.data, &running);
    warn(
        &out,
        args.listen,
        running.tls.is_some(),
        args.legacy_open,
        args.lab,
    );
    let reloading = running
        .tls
        .clone()
        .map(|tls| tokio::spawn(reload_at_hangup(tls)));
    ended.await;
    if let Some(reloading) = reloading {
        reloading.abort();
    }
    out.say("ending");
    running.shutdown().await;
    Ok(())
}

fn policy(asked: DeviceAuth) -> identity::DeviceAuth {
    match asked {
        DeviceAuth::Off => identity::DeviceAuth::Off,
        DeviceAuth::Optional => identity::DeviceAuth::Optional,
        DeviceAuth::Required => identity::DeviceAuth::Required,
    }
}

fn announce(out: &Output, data: &Path, running: &Running) {
    let scheme = if running.tls.is_some() {
        "https"
    } else {
        "http"
    };
    let url = format!("{scheme}://{}", reachable(running.addr));
    let fingerprint = running.tls.as_ref().and_then(|tls| tls.fingerprint());
    let data = std::fs::canonicalize(data).unwrap_or_else(|_| data.to_owned());
    let token = data.join("operator-token");
    let mut facts = vec![
        ("fota", env!("CARGO_PKG_VERSION").to_owned()),
        ("server", url.clone()),
        ("data", data.display().to_string()),
        ("token", format!("in {}", token.display())),
    ];
    if let (Some(tls), Some(fingerprint)) = (&running.tls, &fingerprint) {
        facts.push(("certificate", tls.cert_file().display().to_string()));
        facts.push(("sha256", fingerprint.to_string()));
    }
    out.answer(&text::facts(&facts));
    out.say(&format!(
        "  open {url}/?token=$(cat {})",
        text::quoted(&token.display().to_string())
    ));
    out.say("  Ctrl-C ends");
    out.document(
        "fota.serve/1",
        &json!({"url": url, "data": data, "token_file": token, "certificate_sha256": fingerprint}),
    );
}

/// An address that a browser on this machine can open.
fn reachable(mut address: SocketAddr) -> SocketAddr {
    match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => address.set_ip([127, 0, 0, 1].into()),
        IpAddr::V6(ip) if ip.is_unspecified() => {
            address.set_ip(std::net::Ipv6Addr::LOCALHOST.into())
        }
        _ => {}
    }
    address
}

fn warn(out: &Output, listen: SocketAddr, is_tls: bool, legacy_open: bool, lab: bool) {
    if lab {
        out.warn("--lab: files that no chip would boot are taken");
    }
    if legacy_open {
        out.warn("--legacy-open: whoever reaches this server can upload and roll back");
    }
    if !listen.ip().is_loopback() && !is_tls {
        let text = format!(
            "{listen} is plain HTTP: give --tls-cert and --tls-key, or --tls-self-signed, or put \
             a TLS proxy in front for operators"
        );
        out.note(Mark::Attention, &text);
    }
}

/// The settings of a login provider. The parser's own message would quote what it found,
/// which may be the client's secret.
#[cfg(feature = "oidc")]
fn provider(path: &Path) -> Result<fota_server::auth::oidc::Settings> {
    let text = std::fs::read_to_string(path)
        .map_err(|error| Failure::usage(format!("{}: {error}", path.display())))?;
    toml::from_str(&text).map_err(|error: toml::de::Error| {
        let before = error.span().and_then(|span| text.get(..span.start));
        let line = before.map_or(1, |before| before.matches('\n').count() + 1);
        let message = format!("{} line {line} is not as it should be", path.display());
        Failure::usage(message).hint("docs/operators.md has an example")
    })
}

/// The chunk key of the seed's devices. Its digits are never part of a message.
fn legacy_psk(args: &ServeArgs) -> Result<Option<[u8; 32]>> {
    let (place, digits) = match (&args.legacy_psk_file, env("FOTA_LEGACY_PSK")) {
        (Some(path), _) => {
            let digits = std::fs::read_to_string(path)
                .map_err(|error| Failure::usage(format!("{}: {error}", path.display())))?;
            (path.display().to_string(), digits)
        }
        (None, Some(digits)) => ("FOTA_LEGACY_PSK".to_owned(), digits),
        (None, None) => return Ok(None),
    };
    let digits = digits.trim();
    // The same 64 digits as a digest, so the same parser; its value is a key here.
    let key: std::result::Result<fota_proto::Sha256, _> = digits.parse();
    key.map(|key| Some(key.0)).map_err(|_| {
        let found = digits.chars().count();
        let message = format!("{place} holds no chunk key: {PSK_DIGITS} hex digits are needed, it has {found} characters");
        Failure::usage(message).hint("make one with `openssl rand -hex 32`")
    })
}

fn not_started(error: StartError) -> Failure {
    match error {
        StartError::Setting { .. } => Failure::usage(error.to_string()),
        _ => Failure::error(error.to_string()),
    }
}

/// Resolves at Ctrl-C or SIGTERM.
fn ended() -> Result<impl Future<Output = ()>> {
    #[cfg(unix)]
    {
        use tokio::signal::unix::{SignalKind, signal};
        let listen = |kind| signal(kind).map_err(|error| Failure::error(error.to_string()));
        let mut interrupt = listen(SignalKind::interrupt())?;
        let mut terminate = listen(SignalKind::terminate())?;
        Ok(async move {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
        })
    }
    #[cfg(not(unix))]
    {
        Ok(async {
            let _ = tokio::signal::ctrl_c().await;
        })
    }
}

/// Takes up new certificate files at once at every SIGHUP; without one they are looked at every
/// few seconds.
async fn reload_at_hangup(tls: std::sync::Arc<fota_server::tls::Tls>) {
    #[cfg(unix)]
    {
        use tokio::signal::unix::{SignalKind, signal};
        let Ok(mut hangup) = signal(SignalKind::hangup()) else {
            return;
        };
        while hangup.recv().await.is_some() {
            tls.reload_and_tell();
        }
    }
    #[cfg(not(unix))]
    drop(tls);
}

/// Logs to stderr; `RUST_LOG` is stronger than `-v` and `-q`.
fn log(global: &Global) {
    let level = match (global.quiet, global.verbose) {
        (true, _) => "error",
        (false, 0) => "warn",
        (false, 1) => "info",
        (false, 2) => "debug",
        (false, _) => "trace",
    };
    let filter = tracing_subscriber::EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new(level));
    let colour = global.color != When::Never && std::io::stderr().is_terminal();
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(colour);
    // Only the first subscriber of a process counts; there is no other here.
    let _ = subscriber.try_init();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(feature = "oidc")]
    #[test]
    fn the_example_of_the_document_is_read() {
        let document = include_str!("../../../../docs/operators.md");
        let (_, rest) = document.split_once("```toml\n").expect("an example");
        let (example, _) = rest.split_once("```").expect("its end");
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("oidc.toml");
        std::fs::write(&path, example).expect("written");
        let settings = provider(&path).expect("read");
        assert_eq!(settings.roles.len(), 2);
        assert!(fota_server::auth::oidc::Oidc::new(settings).is_ok());
        std::fs::write(&path, "issuer = \"x\"\nclient_secret = 987654").expect("written");
        let refused = provider(&path).expect_err("wrong").message;
        assert!(
            refused.contains("line 2") && !refused.contains("987654"),
            "{refused}"
        );
    }

    #[test]
    fn an_address_for_everybody_is_shown_as_one_for_a_browser() {
        let cases = [
            ("0.0.0.0:80", "127.0.0.1:80"),
            ("[::]:80", "[::1]:80"),
            ("10.0.0.1:80", "10.0.0.1:80"),
        ];
        for (listen, shown) in cases {
            let listen: SocketAddr = listen.parse().expect("an address");
            assert_eq!(reachable(listen).to_string(), shown);
        }
    }
}
