//! The ten steps. Each asks the manager API until what it tells has happened, or gives up and
//! names itself.

use std::{collections::BTreeMap, sync::atomic::Ordering, time::Duration};

use anyhow::{Context, Result, bail};
use fota_client::{Client, DeviceFilter};
use fota_proto::{
    AttemptState, RollbackCause,
    manager::{
        Attempt, Delta, DeltaProfile, DeltaRequest, Device, Presence, Release, ReleaseUpload,
        RollbackRequest, RollbackState, Rollout, RolloutDetail, RolloutRequest, RolloutState,
    },
};
use fota_sim::seed_device::Server as SeedServer;
use tokio::time::{Instant, timeout};

use super::{
    Pace,
    fleet::{
        BAD, CANARY, CRASHES, CUT_AT, FACTORY, GOOD, IMAGE_BYTES, LOSES_WIFI, NEXT, NIGHT_DEVICES,
        SEED_DEVICE, name,
    },
    watch::Watch,
    world::World,
};
use crate::{clock::now, output::to_stdout, text};
use fota_image::Grouped;

/// Room for the text of a line, behind its indent.
const COLUMNS: usize = 76;
/// Least time between two lines about how far a rollout is.
const NEWS_EVERY: Duration = Duration::from_secs(3);

/// The story as it is told.
pub struct Story<'w> {
    world: &'w mut World,
    client: Client,
    watch: Watch,
    patience: Duration,
    started: Instant,
    /// The rollout under way, and what was last said of it.
    following: Option<i64>,
    said: (Instant, String),
    /// What the steps leave for the summary.
    rows: Vec<Vec<String>>,
}

impl<'w> Story<'w> {
    /// A story on this stage.
    pub fn new(world: &'w mut World, pace: Pace) -> Self {
        let client = world.client.clone();
        Self {
            watch: Watch::start(&client),
            world,
            client,
            patience: pace.patience,
            started: now(),
            following: None,
            said: (now(), String::new()),
            rows: Vec::new(),
        }
    }

    /// Tells all of it.
    pub async fn tell(mut self) -> Result<()> {
        self.introduce();
        self.devices_appear()
            .await
            .context("step 1: the devices appear")?;
        let bad = self.upload("2", BAD).await.context("step 2: upload")?;
        self.canary(&bad).await.context("step 3: the canary")?;
        self.sleepers(true);
        let rollout = self
            .roll_out_to_all(&bad)
            .await
            .context("step 3: everybody")?;
        self.lost_wifi(rollout.id)
            .await
            .context("step 4: lost Wi-Fi")?;
        self.crash_loop(rollout.id)
            .await
            .context("step 5: crash loop")?;
        self.limit_pauses(&rollout)
            .await
            .context("step 6: the failure limit")?;
        self.operator_rollback().await.context("step 7: rollback")?;
        let good = self.upload("8", GOOD).await.context("step 8: upload")?;
        self.sleepers(false);
        self.convergence(&good)
            .await
            .context("step 8: convergence")?;
        let next = self.upload("9", NEXT).await.context("step 9: upload")?;
        self.by_patch(&next).await.context("step 9: patches")?;
        self.summary().await.context("step 10: summary")
    }

    fn introduce(&self) {
        say(&format!(
            "fota demo: a server on {} and {} simulated ESP32s.\n\
             Every line below was seen through its API. By hand each step is the command after $;\n\
             in another terminal, first:\n",
            self.world.url(),
            self.world.count,
        ));
        command(&format!("export FOTA_SERVER={}", self.world.url()));
        command(&format!("export FOTA_TOKEN={}", self.world.token()));
        command(&format!("export FOTA_KEYS={}", self.world.keys().display()));
        say(&format!("\nDashboard: {}", self.world.dashboard()));
    }

    async fn devices_appear(&mut self) -> Result<()> {
        heading(
            "1",
            &format!("{} devices on {FACTORY} appear", self.world.count),
        );
        command("fota status");
        let count = self.world.count as usize;
        let devices = self
            .until(
                "all devices online on the factory version",
                async |client| {
                    let devices = devices(client).await?;
                    let here = devices
                        .iter()
                        .filter(|device| is_online_on(device, FACTORY))
                        .count();
                    Ok((here == count).then_some(devices))
                },
            )
            .await?;
        let speaks_seed = |device: &&Device| device.protocol == "seed";
        let seed: Vec<_> = devices
            .iter()
            .filter(speaks_seed)
            .map(|device| &*device.id)
            .collect();
        if seed != [SEED_DEVICE] {
            bail!("devices that speak the seed's API: {seed:?}");
        }
        seen(&format!(
            "{count} online, all on {FACTORY}; {SEED_DEVICE} speaks only the seed's API"
        ));
        Ok(())
    }

    async fn upload(&mut self, step: &str, version: &str) -> Result<Release> {
        heading(step, &format!("upload {version}"));
        let file = self.world.image_file(version);
        command(&format!("fota upload {}", file.display()));
        let bytes = self.world.bundle(version).context("sign the release")?;
        let options = ReleaseUpload::default();
        let release = self.client.upload(bytes.into(), &options, |_| {}).await?;
        if (release.version.as_str(), release.bytes) != (version, IMAGE_BYTES) {
            bail!(
                "the server took it as {} of {} bytes",
                release.version,
                release.bytes
            );
        }
        seen(&format!(
            "a real, valid {} image of {} bytes, sha256 {} (its code only looks like code), signed by \
             the demo's development key",
            release.chip.as_deref().unwrap_or("?"),
            Grouped(release.bytes),
            release.sha256.short(),
        ));
        Ok(release)
    }

    async fn canary(&mut self, release: &Release) -> Result<()> {
        heading("3", &format!("{BAD} goes to one device first, then to all"));
        command("fota group create canary");
        command(&format!("fota group add canary {CANARY}"));
        command(&format!("fota update {BAD} --to group:canary"));
        self.client.create_group("canary").await?;
        self.client
            .add_to_group("canary", vec![CANARY.to_owned()])
            .await?;
        let rollout = self.start(release, "group:canary", None).await?;
        let done = self.complete(rollout.id, 1).await?;
        let device = self.client.device(CANARY).await?;
        if !runs_confirmed(&device, BAD) || device.elf_sha256 != release.elf_sha256 {
            bail!("{CANARY} reports {:?}", device.version);
        }
        let elf = device
            .elf_sha256
            .map(|elf| elf.short().to_string())
            .unwrap_or_default();
        seen(&format!(
            "{CANARY} itself reports {BAD}, confirmed, image digest {elf}"
        ));
        self.row(&done.rollout, "canary");
        Ok(())
    }

    /// The last devices of the list leave the network, or come back.
    fn sleepers(&self, asleep: bool) {
        for switch in &self.world.devices.night {
            switch.store(asleep, Ordering::Relaxed);
        }
    }

    async fn roll_out_to_all(&mut self, release: &Release) -> Result<Rollout> {
        command(&format!("fota update {BAD} --to all --max-failures 1"));
        let asleep: Vec<_> = (self.world.count - NIGHT_DEVICES + 1..=self.world.count)
            .map(name)
            .collect();
        let rollout = self.start(release, "all", Some(1)).await?;
        seen(&format!(
            "r-{} started for all; {} are switched off and just wait",
            rollout.id,
            asleep.join(" and "),
        ));
        Ok(rollout)
    }

    async fn lost_wifi(&mut self, rollout: i64) -> Result<()> {
        heading("4", &format!("{LOSES_WIFI} loses its Wi-Fi at 40 %"));
        command(&format!("fota device events {LOSES_WIFI}"));
        let attempt = self
            .until(
                "the device to end its update in two requests",
                async |client| {
                    let detail = client.rollout(rollout).await?;
                    let attempt = attempt_of(&detail, LOSES_WIFI);
                    Ok(attempt.filter(|attempt| attempt.state.is_end()).cloned())
                },
            )
            .await?;
        if attempt.state != AttemptState::Succeeded || attempt.requests != 2 {
            bail!(
                "it ended {} after {} requests",
                attempt.state,
                attempt.requests
            );
        }
        let progress = self.watch.progress_of(LOSES_WIFI);
        let offset = progress
            .iter()
            .copied()
            .filter(|bytes| *bytes <= CUT_AT)
            .max()
            .unwrap_or(0);
        let repeated = CUT_AT - offset;
        if !progress.is_sorted() || offset < CUT_AT - 4096 {
            bail!("cut at byte {CUT_AT}, then it was seen at {progress:?}");
        }
        seen(&format!(
            "cut at byte {}, resumed at byte {}: {repeated} bytes fetched twice, \
             {} requests in all, and it succeeded",
            Grouped(CUT_AT),
            Grouped(offset),
            attempt.requests,
        ));
        Ok(())
    }

    async fn crash_loop(&mut self, rollout: i64) -> Result<()> {
        heading(
            "5",
            &format!("{BAD} panics on {CRASHES}; its bootloader goes back"),
        );
        command(&format!("fota device show {CRASHES}"));
        let (attempt, device) = self
            .until("the device back on the factory version", async |client| {
                let detail = client.rollout(rollout).await?;
                let Some(attempt) = attempt_of(&detail, CRASHES).filter(|a| a.state.is_end())
                else {
                    return Ok(None);
                };
                let device = client.device(CRASHES).await?;
                Ok(Some((attempt.clone(), device)))
            })
            .await?;
        let back = AttemptState::RolledBack(RollbackCause::Boot);
        if attempt.state != back || !runs_confirmed(&device, FACTORY) {
            bail!("it ended {} and runs {:?}", attempt.state, device.version);
        }
        seen(&format!(
            "{CRASHES} is on {FACTORY} again, attempt {}",
            attempt.state
        ));
        if let Some(why) = &attempt.explanation {
            seen(why);
        }
        Ok(())
    }

    async fn limit_pauses(&mut self, rollout: &Rollout) -> Result<()> {
        heading("6", "the failure limit pauses the rollout by itself");
        command(&format!("fota rollout show r-{}", rollout.id));
        let detail = self
            .until(
                "the rollout paused and nobody in the middle",
                async |client| {
                    let detail = client.rollout(rollout.id).await?;
                    let counts = detail.rollout.counts;
                    let quiet = counts.updating == 0 && counts.trial == 0;
                    let paused = detail.rollout.state == RolloutState::Paused;
                    Ok((paused && quiet).then_some(detail))
                },
            )
            .await?;
        let counts = detail.rollout.counts;
        if counts.waiting != u64::from(NIGHT_DEVICES) || counts.rolled_back != 1 {
            bail!("its counts are {}", text_of_counts(&detail));
        }
        seen(&format!(
            "r-{} is paused: {}",
            rollout.id,
            detail
                .rollout
                .reason
                .as_deref()
                .unwrap_or("no reason given")
        ));
        seen(&text_of_counts(&detail));
        self.row(&detail.rollout, "all");
        Ok(())
    }

    async fn operator_rollback(&mut self) -> Result<()> {
        self.following = None;
        heading("7", &format!("the operator sends everybody on {BAD} back"));
        self.seed_rollback().await?;
        let before = self.on(BAD).await?;
        command(&format!(
            "fota rollback all --release {BAD} --reason \"{BAD} panics\" --confirm all"
        ));
        let request = RollbackRequest {
            to: vec!["all".to_owned()],
            release: Some(BAD.to_owned()),
            reason: format!("{BAD} panics"),
        };
        let accepted = self.client.roll_back(&request).await?;
        if accepted.orders.len() != before.len() {
            bail!(
                "{} orders for {} devices; left out: {:?}",
                accepted.orders.len(),
                before.len(),
                accepted.excluded
            );
        }
        self.until("nobody on the bad version", async |client| {
            let devices = devices(client).await?;
            let settled = |device: &Device| {
                let standing = device.rollback.as_ref();
                let standing = standing.is_some_and(|o| o.state == RollbackState::Standing);
                device.version.as_deref() == Some(FACTORY) && !standing
            };
            Ok(devices.iter().all(settled).then_some(()))
        })
        .await?;
        let blocked = devices(&self.client).await?;
        let blocked = blocked
            .iter()
            .filter(|d| d.blocked.iter().any(|v| v == BAD))
            .count();
        seen(&format!(
            "{} more went back without a download; {BAD} is now blocked on {blocked} devices",
            before.len()
        ));
        Ok(())
    }

    /// The seed's own line, byte for byte what curl would send.
    async fn seed_rollback(&mut self) -> Result<()> {
        let path = "/api/cloud/fota/rollback";
        let body = format!("{{\"device_id\":\"{SEED_DEVICE}\",\"reason\":\"Update failed\"}}");
        let host = self.world.url().replace("127.0.0.1", "localhost");
        command(&format!("curl -X POST {host}{path} \\"));
        say("       -H \"Content-Type: application/json\" \\");
        say(&format!("       -d '{body}'"));
        let answer = SeedServer::new(&self.world.url(), None)?
            .post(path, &body)
            .await?;
        let device = self
            .until(
                "the seed device back on the factory version",
                async |client| {
                    let device = client.device(SEED_DEVICE).await?;
                    Ok((device.version.as_deref() == Some(FACTORY)).then_some(device))
                },
            )
            .await?;
        let answer: serde_json::Value = serde_json::from_slice(&answer).context("its answer")?;
        seen(&format!(
            "success: {}, message: {}",
            answer["success"], answer["message"]
        ));
        seen(&format!(
            "{SEED_DEVICE} (it speaks the {} protocol) is on {FACTORY} again",
            device.protocol
        ));
        Ok(())
    }

    async fn convergence(&mut self, release: &Release) -> Result<()> {
        command(&format!("fota update {GOOD} --to all --max-failures 1"));
        let rollout = self.start(release, "all", Some(1)).await?;
        let count = u64::from(self.world.count);
        let done = self.complete(rollout.id, count).await?;
        let devices = devices(&self.client).await?;
        let on = devices
            .iter()
            .filter(|device| runs_confirmed(device, GOOD))
            .count();
        if on as u64 != count {
            bail!("only {on} of {count} devices report {GOOD}, confirmed");
        }
        seen(&format!(
            "{on} of {count} devices report {GOOD}, the switched-off ones too"
        ));
        self.row(&done.rollout, "all");
        Ok(())
    }

    /// The server made a patch by itself, and whoever can apply one took it.
    async fn by_patch(&mut self, release: &Release) -> Result<()> {
        command(&format!(
            "fota release delta build {NEXT} --from all-running"
        ));
        self.client.build_deltas(&all_running(release)).await?;
        let made = self.until("the patch made", async |client| {
            let deltas = client.deltas(Some(release.id)).await?;
            let is_open = |it: &Delta| matches!(&*it.state, "queued" | "making");
            Ok((!deltas.iter().any(is_open)).then_some(()))
        });
        made.await?;
        command(&format!("fota update {NEXT} --to all --max-failures 1"));
        let rollout = self.start(release, "all", Some(1)).await?;
        let count = self.world.count as usize;
        let done = self.complete(rollout.id, count as u64).await?;
        let deltas = self.client.deltas(Some(release.id)).await?;
        let patch = deltas
            .iter()
            .find(|it| it.from_version.as_deref() == Some(GOOD));
        let patch = patch.filter(|patch| patch.state == "ready");
        let patch = patch.with_context(|| format!("no patch from {GOOD}: {deltas:?}"))?;
        // The last one speaks the seed's API.
        let able = count - 1;
        if patch.succeeded != able as u64 {
            bail!("{} of {able} devices took the patch", patch.succeeded);
        }
        let took = done.attempts.iter().filter(|it| it.patch_bytes.is_some());
        let most = took.map(|it| it.bytes_sent).max().unwrap_or(0);
        let whole = artifact_bytes(&done);
        if most * 20 > whole {
            bail!("a device took {most} bytes; the whole image is {whole}");
        }
        command(&format!("fota release delta list {NEXT}"));
        seen(&format!(
            "the server made a patch of {} bytes from {GOOD} in {:.1} s, and decoded it to the \
             very image before it offered it",
            Grouped(patch.bytes.unwrap_or(0)),
            patch.made_in_ms.unwrap_or(0) as f64 / 1000.0,
        ));
        seen(&format!(
            "{able} devices, whose updater of {GOOD} applies patches, took at most {} bytes each, \
             patch and index, instead of {}: {} bytes were spared",
            Grouped(most),
            Grouped(whole),
            text::signed_bytes(done.rollout.spared_bytes),
        ));
        self.row(&done.rollout, "all");
        Ok(())
    }

    async fn summary(&mut self) -> Result<()> {
        heading("10", "summary");
        let mut versions: BTreeMap<String, u32> = BTreeMap::new();
        for device in devices(&self.client).await? {
            *versions
                .entry(device.version.unwrap_or_default())
                .or_default() += 1;
        }
        let head = [
            "ROLLOUT",
            "RELEASE",
            "TO",
            "STATE",
            "DONE",
            "BACK",
            "WAITING",
            "BYTES SENT",
            "SPARED",
            "TIME",
        ];
        say(&text::table(&head, &self.rows));
        say(
            "BYTES SENT is what the server handed to the network: the base64 of the seed's chunks\n\
             and what was on its way when the Wi-Fi went are in it. SPARED is what a patch was\n\
             shorter than the whole image.\n",
        );
        let versions: Vec<_> = versions
            .iter()
            .map(|(v, n)| format!("{n} on {v}"))
            .collect();
        say(&format!(
            "Fleet: {}. The whole story took {:.1} s.\nSee {}",
            versions.join(", "),
            self.started.elapsed().as_secs_f64(),
            self.world.dashboard(),
        ));
        Ok(())
    }

    async fn start(
        &mut self,
        release: &Release,
        to: &str,
        failures_max: Option<u32>,
    ) -> Result<Rollout> {
        let request = RolloutRequest {
            failures_max,
            ..RolloutRequest::new(release.id.to_string(), vec![to.to_owned()])
        };
        let rollout = self.client.start_rollout(&request).await?;
        self.following = Some(rollout.id);
        self.said.0 = now();
        Ok(rollout)
    }

    /// Says now and then how far the rollout is.
    async fn tell_news(&mut self) -> Result<()> {
        let Some(rollout) = self
            .following
            .filter(|_| self.said.0.elapsed() >= NEWS_EVERY)
        else {
            return Ok(());
        };
        let detail = self.client.rollout(rollout).await?;
        let news = format!("… r-{rollout}: {}", text_of_counts(&detail));
        if self.said.1 != news {
            seen(&news);
        }
        self.said = (now(), news);
        Ok(())
    }

    /// Waits until a rollout is complete with this many devices on the release.
    async fn complete(&mut self, rollout: i64, succeeded: u64) -> Result<RolloutDetail> {
        let detail = self
            .until("the rollout complete", async |client| {
                let detail = client.rollout(rollout).await?;
                Ok((detail.rollout.state != RolloutState::Active).then_some(detail))
            })
            .await?;
        let is_complete = detail.rollout.state == RolloutState::Complete;
        if !is_complete || detail.rollout.counts.succeeded != succeeded {
            bail!(
                "it is {:?}: {} ({})",
                detail.rollout.state,
                text_of_counts(&detail),
                detail.rollout.reason.as_deref().unwrap_or("no reason")
            );
        }
        Ok(detail)
    }

    async fn on(&self, version: &str) -> Result<Vec<Device>> {
        let devices = devices(&self.client).await?;
        let on = |device: &Device| device.version.as_deref() == Some(version);
        Ok(devices.into_iter().filter(on).collect())
    }

    fn row(&mut self, rollout: &Rollout, to: &str) {
        let took = self.watch.last_at() - rollout.created_at;
        let counts = &rollout.counts;
        let state = format!("{:?}", rollout.state).to_lowercase();
        self.rows.push(vec![
            format!("r-{}", rollout.id),
            rollout.version.clone(),
            to.to_owned(),
            state,
            counts.succeeded.to_string(),
            counts.rolled_back.to_string(),
            counts.waiting.to_string(),
            Grouped(rollout.bytes_sent).to_string(),
            text::signed_bytes(rollout.spared_bytes),
            format!("{:.1} s", took as f64 / 1000.0),
        ]);
    }

    /// Asks `look` after each event until it finds what it looks for.
    async fn until<T>(
        &mut self,
        what: &str,
        mut look: impl AsyncFnMut(&Client) -> Result<Option<T>>,
    ) -> Result<T> {
        let patience = self.patience;
        let looking = async {
            loop {
                if let Some(found) = look(&self.client).await? {
                    return Ok(found);
                }
                self.watch.next_event().await;
                self.tell_news().await?;
            }
        };
        let seconds = patience.as_secs();
        let found = timeout(patience, looking).await;
        found.with_context(|| format!("waited {seconds} s for {what}"))?
    }
}

async fn devices(client: &Client) -> Result<Vec<Device>> {
    Ok(client.devices(&DeviceFilter::default()).await?)
}

fn is_online_on(device: &Device, version: &str) -> bool {
    device.presence == Presence::Online && device.version.as_deref() == Some(version)
}

fn all_running(release: &Release) -> DeltaRequest {
    DeltaRequest {
        release: format!("id:{}", release.id),
        from: Vec::new(),
        all_running: true,
        profile: DeltaProfile::Default,
    }
}

/// Length of the image with its index.
fn artifact_bytes(detail: &RolloutDetail) -> u64 {
    detail.attempts.first().map_or(0, |it| it.artifact_bytes)
}

/// A seed device cannot say whether what it runs is confirmed.
fn runs_confirmed(device: &Device, version: &str) -> bool {
    device.version.as_deref() == Some(version) && device.confirmed != Some(false)
}

fn attempt_of<'a>(detail: &'a RolloutDetail, device: &str) -> Option<&'a Attempt> {
    detail
        .attempts
        .iter()
        .find(|attempt| attempt.device == device)
}

fn text_of_counts(detail: &RolloutDetail) -> String {
    let counts = detail.rollout.counts;
    let all = [
        (counts.succeeded, "succeeded"),
        (counts.rolled_back, "rolled back"),
        (counts.failed, "failed"),
        (counts.skipped, "had it already"),
        (counts.updating + counts.trial, "under way"),
        (counts.waiting, "waiting"),
        (counts.ended, "ended"),
    ];
    let parts = all.iter().filter(|(count, _)| *count > 0);
    let parts: Vec<_> = parts
        .map(|(count, what)| format!("{count} {what}"))
        .collect();
    parts.join(", ")
}

fn heading(step: &str, text: &str) {
    const CIRCLED: [&str; 11] = ["", "①", "②", "③", "④", "⑤", "⑥", "⑦", "⑧", "⑨", "⑩"];
    let number = step.parse().ok().and_then(|step: usize| CIRCLED.get(step));
    say(&format!("\n{} {text}", number.unwrap_or(&step)));
}

fn command(text: &str) {
    say(&format!("   $ {text}"));
}

/// What was observed, in lines that fit 80 columns.
fn seen(text: &str) {
    let mut line = String::new();
    for word in text::plain(text).split_whitespace() {
        if !line.is_empty() && line.chars().count() + 1 + word.chars().count() > COLUMNS {
            say(&format!("   {line}"));
            line.clear();
        }
        if !line.is_empty() {
            line.push(' ');
        }
        line.push_str(word);
    }
    say(&format!("   {line}"));
}

fn say(text: &str) {
    to_stdout(&format!("{text}\n"));
}
