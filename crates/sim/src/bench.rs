//! One device on a bench: flash, bootloader and the device crate, with a scripted server in place
//! of the network. Everything happens in one thread and in the same order each time, so a power
//! cut can be put at any flash operation and repeated.

use std::sync::Arc;

use fota_device::{
    BootInfo, CHECK_IN_BYTES_MAX, Download, Next, PatchEnd, ReceiveError, Started, Trust, Updater,
    Workspace,
};
use fota_image::{
    app::Chip,
    partition::{TABLE_OFFSET, TableBuildError, TableBuilder},
};
use fota_proto::{
    FailureCode, Sha256,
    checkin::{CheckIn, End, PatchProfile, ResetReason},
};

use crate::{
    boot::{Boot, BootModel, NoBoot},
    decoder::SimDecoder,
    firmware::{Behaviour, Firmware},
    flash::{DEFAULT_BYTES, FlashError, SimFlash},
    powercut::{Broken, Watch},
    scripted::{Ask, ScriptedServer},
    signing::Maker,
};

/// Turns of the app's loop in one start: far more than any update needs, so a loop that never
/// settles is found.
const TURNS_MAX: u32 = 200;
/// Bytes that arrive together: no divisor of a page, so that every split is seen. The last ones
/// may be lost with the power, on top of what the device has to fetch again.
pub const ARRIVING_BYTES: usize = 251;
/// Uptime at which an app gives up on a link that is silent.
const STALL_S: u32 = 120;
/// Revision of the board.
pub const HARDWARE: u16 = 2;
/// Where `ota_0` begins in the table of [`Bench::new`].
pub const FIRST_SLOT_OFFSET: u32 = 0x1_0000;

/// How one start of the device ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ended {
    /// The app reset the chip, or crashed.
    Reset,
    /// Nothing is left to do but to wait.
    Settled,
    /// The power failed.
    PowerLost,
}

/// Why a bench stopped: a promise that does not hold.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BenchError {
    /// Nothing boots.
    #[error("nothing boots: {0}")]
    Boot(NoBoot),
    /// The device crate gave an error although the flash did what it was told.
    #[error("{what} gave an error with power on: {error}")]
    Device {
        /// Which call.
        what: &'static str,
        /// Its error.
        error: String,
    },
    /// The app went round in its loop.
    #[error("the app did not settle within {TURNS_MAX} turns")]
    Endless,
    /// It was started again and again.
    #[error("not settled after {0} starts")]
    Starts(u32),
    /// What is watched over did not hold.
    #[error(transparent)]
    Broken(#[from] Broken),
}

/// An outcome as the server saw it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SeenOutcome {
    /// The order.
    pub order: u64,
    /// How it ended.
    pub end: End,
    /// Why.
    pub code: FailureCode,
    /// Why the trial reset.
    pub reset: Option<ResetReason>,
}

/// A link that is lost once this many body bytes have arrived, in all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ByteCut {
    /// Of [`Bench::downloaded_bytes`].
    pub downloaded_bytes: u64,
    /// Whether the device loses its power with it.
    pub reboots: bool,
}

/// What the network can do to a download.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum NetFault {
    /// The connection is lost; the next request goes on from there.
    Drop,
    /// Nothing more comes, until the app gives up, checks in and asks again.
    Stall,
    /// One bit arrives wrong.
    Flip,
    /// What came last comes once more.
    Duplicate,
    /// The connection is lost, and the request for the rest is answered with all of it: 200 where
    /// 206 was asked for.
    Whole,
    /// The connection is lost, and another file is under the same name.
    Other,
}

/// A network fault once this many body bytes have arrived, in all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NetCut {
    /// Of [`Bench::downloaded_bytes`].
    pub downloaded_bytes: u64,
    /// What happens.
    pub fault: NetFault,
}

/// A lost link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LinkCut {
    /// Bytes of the image that arrive before.
    pub at: u32,
    /// Whether the device loses its power with it.
    pub reboots: bool,
}

/// The device, and what was seen of it.
#[derive(Clone, Debug)]
pub struct Bench {
    /// Its flash.
    pub flash: SimFlash,
    /// Its bootloader.
    pub bootloader: BootModel,
    /// Its server.
    pub server: ScriptedServer,
    /// The root in its firmware; without one it takes orders from anybody.
    pub root: Option<Arc<[u8]>>,
    /// The patches that it can apply.
    pub patches: Option<PatchProfile>,
    /// Patches that were not used to their end.
    pub patch_ends: Vec<PatchEnd>,
    /// Places in flash of which a bit flips once the bootloader has verified the image, at the next
    /// start.
    pub rots: Vec<u32>,
    /// Why the next start happens.
    pub reset: ResetReason,
    /// Links that will be lost, in order of their place.
    pub link_cuts: Vec<LinkCut>,
    /// The same by what has arrived, whatever it is.
    pub byte_cuts: Vec<ByteCut>,
    /// What the network does.
    pub net_cut: Option<NetCut>,
    /// Answer to the next request for a body that is not the one that was asked for.
    odd_reply: Option<NetFault>,
    /// Whether the network did anything: bytes may be refused.
    is_disturbed: bool,
    /// Body bytes that arrived, in all.
    pub downloaded_bytes: u64,
    /// Starts of the app.
    pub starts: u32,
    /// How often an image was activated.
    pub activations: u32,
    /// The first flash operation of the app in the last start; all before are the bootloader's.
    /// None where the bootloader did not get so far.
    pub app_from_op: Option<u64>,
    /// What is promised of it, where that is watched.
    pub watch: Option<Watch>,
    /// What the device reported.
    pub outcomes: Vec<SeenOutcome>,
    nonce: u64,
}

impl Bench {
    /// A device with two slots of `slot_bytes`, blank `otadata`, and `image` in `ota_0`.
    pub fn new(image: &[u8], slot_bytes: u32, rollback: bool) -> Result<Self, TableBuildError> {
        let table = TableBuilder::two_ota(slot_bytes).trust().build()?;
        let mut flash = SimFlash::new(DEFAULT_BYTES);
        let fits = "the table's slots lie in the flash";
        flash.load(TABLE_OFFSET, &table).expect(fits);
        flash.load(FIRST_SLOT_OFFSET, image).expect(fits);
        Ok(Self {
            flash,
            bootloader: BootModel::new(rollback),
            server: ScriptedServer::new(1, Ask::Nothing),
            root: None,
            patches: None,
            patch_ends: Vec::new(),
            rots: Vec::new(),
            reset: ResetReason::PowerOn,
            link_cuts: Vec::new(),
            byte_cuts: Vec::new(),
            net_cut: None,
            odd_reply: None,
            is_disturbed: false,
            downloaded_bytes: 0,
            starts: 0,
            activations: 0,
            app_from_op: None,
            watch: None,
            outcomes: Vec::new(),
            nonce: 0,
        })
    }

    /// Starts the device until it settles, at most `starts_max` times.
    pub fn run(&mut self, starts_max: u32) -> Result<(), BenchError> {
        for _ in 0..starts_max {
            match self.start()? {
                Ended::Settled => return Ok(()),
                Ended::Reset => {}
                Ended::PowerLost => {
                    self.flash.power_on();
                    self.reset = ResetReason::PowerOn;
                }
            }
        }
        Err(BenchError::Starts(starts_max))
    }

    /// One start: bootloader, then the app until it resets, settles or loses power. The running
    /// slot, bootloader and table are protected meanwhile.
    pub fn start(&mut self) -> Result<Ended, BenchError> {
        self.flash.unprotect_all();
        self.app_from_op = None;
        // The same nonces at each start: the same flash and the same order make the same start.
        self.nonce = 0;
        self.mark(self.flash.ops());
        let boot = match self.bootloader.boot(&mut self.flash) {
            Ok(boot) => boot,
            Err(NoBoot::PowerLost) => return Ok(Ended::PowerLost),
            Err(error) => return Err(BenchError::Boot(error)),
        };
        for at in std::mem::take(&mut self.rots) {
            let bytes = self.flash.bytes(at..at + 1)?;
            self.flash.load(at, &[bytes[0] ^ 1])?;
        }
        if let Some(watch) = &self.watch {
            watch.booted(&boot)?;
        }
        self.flash.protect(0..TABLE_OFFSET + 0x1000);
        self.flash.protect(boot.region.offset..boot.region.end());
        self.starts += 1;
        self.app_from_op = Some(self.flash.ops());
        match self.app(&boot) {
            Err(BenchError::Device { .. }) if !self.flash.is_powered() => Ok(Ended::PowerLost),
            ended => ended,
        }
    }

    /// What the app's caller knows at boot.
    pub fn boot_info(&self, boot: &Boot) -> BootInfo {
        BootInfo {
            device: "ESP32-001".parse().expect("a plain name"),
            chip: boot.image.header.chip.unwrap_or(Chip::Esp32),
            chip_revision: Some(300),
            hardware: Some(HARDWARE),
            table_offset: TABLE_OFFSET,
            flash_bytes: DEFAULT_BYTES as u32,
            running_offset: boot.region.offset,
            reset: self.reset,
        }
    }

    fn app(&mut self, boot: &Boot) -> Result<Ended, BenchError> {
        let firmware = Firmware::read(&mut self.flash, boot.region);
        let behaviour = firmware.map_or(Behaviour::Works, |firmware| firmware.behaviour);
        if behaviour == Behaviour::CrashesAtBoot {
            self.reset = ResetReason::Panic;
            return Ok(Ended::Reset);
        }
        let info = self.boot_info(boot);
        // The app holds the flash while it runs; the bench takes it back afterwards.
        let mut flash = std::mem::take(&mut self.flash);
        let ended = self.turns(&mut flash, info, &behaviour);
        self.flash = flash;
        ended
    }

    fn turns(
        &mut self,
        flash: &mut SimFlash,
        info: BootInfo,
        behaviour: &Behaviour,
    ) -> Result<Ended, BenchError> {
        self.reset = ResetReason::Software;
        let root = self.root.clone();
        let mut workspace = Box::new(Workspace::new());
        let mut decoder = self.patches.map(SimDecoder::new);
        let trust = trust(root.as_deref(), &mut workspace);
        let mut updater = match Updater::start(flash, info, trust).map_err(device("start"))? {
            Started::Run(updater) => updater,
            Started::Reset(_) => return Ok(Ended::Reset),
        };
        if let Some(watch) = &mut self.watch {
            watch.started(&updater)?;
        }
        if *behaviour == Behaviour::CrashesOnTrial && updater.is_on_trial() {
            self.reset = ResetReason::Panic;
            return Ok(Ended::Reset);
        }
        if let Some(decoder) = &mut decoder {
            updater.apply_patches_with(decoder);
        }
        let mut uptime_s = 1;
        let mut next = Next::CheckIn;
        for _ in 0..TURNS_MAX {
            if !updater.flash().is_powered() {
                return Ok(Ended::PowerLost);
            }
            self.mark(updater.flash().ops());
            next = match next {
                Next::CheckIn => self.check_in(&mut updater, uptime_s, behaviour)?,
                Next::FetchRoot { version } => self.fetch_root(&mut updater, version)?,
                Next::FetchRelease { release } => self.fetch_release(&mut updater, &release)?,
                Next::FetchLogProof { .. } | Next::FetchLogGrowth { .. } => {
                    return Err(device("log")("this server keeps none"));
                }
                Next::Download(part) => match self.fetch(&mut updater, part)? {
                    Some(ended) => return Ok(ended),
                    None => updater.next(),
                },
                Next::Prove => match updater.prove() {
                    Ok(verified) => {
                        let _ = verified.activate().map_err(device("activate"))?;
                        self.activations += 1;
                        return Ok(Ended::Reset);
                    }
                    Err(_) => updater.next(),
                },
                Next::Wait { .. } if !updater.is_on_trial() && self.is_over(&updater)? => {
                    return Ok(Ended::Settled);
                }
                Next::Wait { seconds } => {
                    uptime_s += seconds;
                    if updater.tick(uptime_s).map_err(device("tick"))?.is_some() {
                        return Ok(Ended::Reset);
                    }
                    Next::CheckIn
                }
                Next::Reset(_) => return Ok(Ended::Reset),
            };
        }
        Err(BenchError::Endless)
    }

    fn mark(&mut self, op: u64) {
        let (downloaded_bytes, activations) = (self.downloaded_bytes, self.activations);
        if let Some(watch) = &mut self.watch {
            watch.mark(op, downloaded_bytes, activations);
        }
    }

    /// Whether nothing more is to happen.
    fn is_over(&self, updater: &Updater<'_, &mut SimFlash>) -> Result<bool, BenchError> {
        match &self.watch {
            Some(watch) => Ok(watch.is_over(updater)?),
            None => Ok(true),
        }
    }

    fn fetch_root(
        &mut self,
        updater: &mut Updater<'_, &mut SimFlash>,
        version: u32,
    ) -> Result<Next, BenchError> {
        let roots = self.server.maker.as_ref().map(Maker::roots);
        let root = roots.and_then(|roots| roots.get(version.checked_sub(1)? as usize));
        let root = root.ok_or_else(|| device("root")("there is none of this version"))?;
        let next = updater.root(root).map_err(device("root"))?;
        if let Some(watch) = &mut self.watch {
            watch.trusts(updater);
        }
        Ok(next)
    }

    fn fetch_release(
        &mut self,
        updater: &mut Updater<'_, &mut SimFlash>,
        release: &Sha256,
    ) -> Result<Next, BenchError> {
        let Ask::Install(artifact) = &self.server.ask else {
            return Err(device("release")("without an order"));
        };
        let bytes = artifact.blob(release);
        let bytes = bytes.ok_or_else(|| device("release")("there is none of this name"))?;
        updater.release(bytes).map_err(device("release"))
    }

    fn check_in(
        &mut self,
        updater: &mut Updater<'_, &mut SimFlash>,
        uptime_s: u32,
        behaviour: &Behaviour,
    ) -> Result<Next, BenchError> {
        if *behaviour == Behaviour::NeverConnects {
            return Ok(Next::Wait { seconds: 60 });
        }
        self.nonce += 1;
        let mut buffer = [0; CHECK_IN_BYTES_MAX];
        let request = updater.check_in(self.nonce, uptime_s, &mut buffer);
        let request: CheckIn = minicbor::decode(request).map_err(device("check_in"))?;
        self.note(&request);
        if let Some(watch) = &mut self.watch
            && let Some(next) = watch.heard(&request)?
        {
            self.server = next;
        }
        self.mark(updater.flash().ops());
        let answer = self.server.answer(&request);
        match behaviour {
            Behaviour::NeverConfirms => {}
            Behaviour::FailsSelfTest if updater.is_on_trial() => {
                let rejected = updater.reject(FailureCode::HealthCheck);
                return rejected.map(Next::Reset).map_err(device("reject"));
            }
            _ => {
                if let Some(watch) = &mut self.watch {
                    watch.confirms(updater);
                }
                self.mark(updater.flash().ops());
                updater.confirm().map_err(device("confirm"))?;
                if let Some(watch) = &mut self.watch {
                    watch.trusts(updater);
                }
            }
        }
        updater.answer(&answer).map_err(device("answer"))
    }

    fn note(&mut self, request: &CheckIn) {
        self.outcomes
            .extend(request.outcome.as_ref().map(|outcome| SeenOutcome {
                order: outcome.order,
                end: outcome.end,
                code: FailureCode::from_number(outcome.code),
                reset: outcome.reset,
            }));
    }

    fn fetch(
        &mut self,
        updater: &mut Updater<'_, &mut SimFlash>,
        part: Download,
    ) -> Result<Option<Ended>, BenchError> {
        let Ask::Install(artifact) = self.server.ask.clone() else {
            return Err(device("download")("without an order"));
        };
        let from = part.from;
        let cut = self.link_cuts.first().filter(|cut| cut.at >= from).copied();
        let until = cut.map_or(part.to, |cut| cut.at.min(part.to));
        let blob = artifact.blob(&part.blob);
        let blob = blob.ok_or_else(|| device("download")("there is no blob of this name"))?;
        let mut body = &blob[from as usize..until as usize];
        let mut reboots = cut.map(|cut| cut.reboots);
        if let Some(cut) = self.byte_cuts.first().copied()
            && let left = cut.downloaded_bytes.saturating_sub(self.downloaded_bytes)
            && left < body.len() as u64
        {
            body = &body[..left as usize];
            reboots = Some(cut.reboots);
            self.byte_cuts.remove(0);
        } else if cut.is_some() {
            self.link_cuts.remove(0);
        }
        let (disturbed, fault) = self.disturb(blob, body);
        for arriving in disturbed.as_deref().unwrap_or(body).chunks(ARRIVING_BYTES) {
            self.downloaded_bytes += arriving.len() as u64;
            self.mark(updater.flash().ops());
            match updater.receive(arriving) {
                Ok(()) => {}
                // It wants other bytes than these.
                Err(ReceiveError::PageFirst) => return Ok(None),
                Err(ReceiveError::PatchEnded { why, .. }) => {
                    self.patch_ends.push(why);
                    return Ok(None);
                }
                Err(_) if self.is_disturbed => return Ok(None),
                Err(error) => return Err(device("receive")(error)),
            }
        }
        if fault == Some(NetFault::Stall) {
            self.check_in(updater, STALL_S, &Behaviour::Works)?;
        }
        Ok(reboots.filter(|reboots| *reboots).map(|_| {
            self.reset = ResetReason::PowerOn;
            Ended::Reset
        }))
    }

    /// What arrives in place of a body, where the network has its hand in it.
    fn disturb(&mut self, blob: &[u8], body: &[u8]) -> (Option<Vec<u8>>, Option<NetFault>) {
        match self.odd_reply.take() {
            Some(NetFault::Whole) => return (Some(blob.to_vec()), None),
            Some(_) => return (Some(body.iter().map(|byte| !byte).collect()), None),
            None => {}
        }
        let left = |cut: &NetCut| cut.downloaded_bytes.checked_sub(self.downloaded_bytes);
        let Some((cut, left)) = self
            .net_cut
            .and_then(|cut| Some((cut, left(&cut)? as usize)))
        else {
            return (None, None);
        };
        if left >= body.len() {
            return (None, None);
        }
        (self.net_cut, self.is_disturbed) = (None, true);
        let mut arriving = body.to_vec();
        match cut.fault {
            NetFault::Drop | NetFault::Stall => arriving.truncate(left),
            NetFault::Flip => arriving[left] ^= 1 << (cut.downloaded_bytes % 8),
            NetFault::Duplicate => {
                let again = arriving[left.saturating_sub(ARRIVING_BYTES)..=left].to_vec();
                arriving.splice(left + 1..left + 1, again);
            }
            NetFault::Whole | NetFault::Other => {
                arriving.truncate(left);
                self.odd_reply = Some(cut.fault);
            }
        }
        (Some(arriving), Some(cut.fault))
    }
}

/// What a device with this root in its firmware trusts.
pub fn trust<'w>(root: Option<&'w [u8]>, workspace: &'w mut Workspace) -> Trust<'w> {
    match root {
        Some(root) => Trust::Root(root, workspace),
        None => Trust::Anybody,
    }
}

fn device<E: ToString>(what: &'static str) -> impl Fn(E) -> BenchError {
    move |error| BenchError::Device {
        what,
        error: error.to_string(),
    }
}

impl From<FlashError> for BenchError {
    fn from(error: FlashError) -> Self {
        device("flash")(error)
    }
}
