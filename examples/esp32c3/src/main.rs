//! A whole firmware for an ESP32-C3 that keeps itself up to date over its serial line.
//!
//! It has nothing to do but that: it asks `fota serial` at the other end what its server wants,
//! installs what is ordered and proven, and says what it does. Take `Line` and `run` into a firmware
//! of your own. It follows the root in the file that `FOTA_ROOT` names when it is built; without one,
//! the first root that a server shows it.
#![no_std]
#![no_main]

mod board;
mod line;

use esp_hal::uart::{Config, Uart};
use esp_storage::FlashStorage;
use fota_device::{CHECK_IN_BYTES_MAX, Download, Next, Started, Trust, Updater, Workspace};
use fota_proto::serial::Ask;
use static_cell::ConstStaticCell;

use crate::line::Line;

include!(concat!(env!("OUT_DIR"), "/root.rs"));

esp_bootloader_esp_idf::esp_app_desc!(
    env!("FOTA_VERSION"),
    env!("CARGO_PKG_NAME"),
    esp_bootloader_esp_idf::BUILD_TIME,
    esp_bootloader_esp_idf::BUILD_DATE,
    esp_bootloader_esp_idf::ESP_IDF_COMPATIBLE_VERSION,
    esp_bootloader_esp_idf::MMU_PAGE_SIZE,
    0,
    u16::MAX,
    0
);

/// How long to wait after something went wrong that may be better later.
const RETRY_S: u32 = 10;

static WORKSPACE: ConstStaticCell<Workspace> = ConstStaticCell::new(Workspace::new());

type Device = Updater<'static, FlashStorage<'static>>;

#[esp_hal::main]
fn main() -> ! {
    let peripherals = esp_hal::init(esp_hal::Config::default());
    let uart = Uart::new(peripherals.UART0, Config::default()).expect("115,200 baud is possible");
    let uart = uart.with_rx(peripherals.GPIO20).with_tx(peripherals.GPIO21);
    let mut line = Line::new(uart);
    let flash = FlashStorage::new(peripherals.FLASH);
    let workspace = WORKSPACE.take();
    let trust = match ROOT {
        Some(root) => Trust::Root(root, workspace),
        None => Trust::FirstUse(workspace),
    };
    let boot = board::boot_info();
    line.say(format_args!(
        "fota: {} starts {}, reset {:?}",
        boot.device,
        env!("FOTA_VERSION"),
        boot.reset
    ));
    // First thing, so that an image that crashes later is given up at its second start.
    match Updater::start(flash, boot, trust) {
        Ok(Started::Run(updater)) => run(&mut line, updater),
        Ok(Started::Reset(_)) => {
            line.say(format_args!("fota: crashed on trial, going back"));
            line.reset()
        }
        Err(error) => panic!("{error}"),
    }
}

fn run(line: &mut Line, mut updater: Device) -> ! {
    #[cfg(feature = "crash")]
    panic!("this firmware is made to crash");
    #[allow(unreachable_code)] // with `crash`
    let mut buffer = [0; CHECK_IN_BYTES_MAX];
    let mut next = Next::CheckIn;
    loop {
        next = match next {
            Next::CheckIn => check_in(line, &mut updater, &mut buffer),
            Next::FetchRoot { version } => step(line, &mut buffer, Ask::Root(version), |body| {
                updater.root(body)
            }),
            Next::FetchRelease { release } => {
                let ask = Ask::Blob {
                    blob: release,
                    from: 0,
                    to: 0,
                };
                step(line, &mut buffer, ask, |body| updater.release(body))
            }
            Next::FetchLogProof { release, size } => {
                let ask = Ask::LogProof { release, size };
                step(line, &mut buffer, ask, |body| updater.log_proof(body))
            }
            Next::FetchLogGrowth { from, to } => {
                let ask = Ask::LogGrowth { from, to };
                step(line, &mut buffer, ask, |body| updater.log_growth(body))
            }
            Next::Download(part) => {
                download(line, &mut updater, &part, &mut buffer);
                match updater.next() {
                    // Nothing more came: the line is down.
                    Next::Download(same) if same == part => Next::Wait { seconds: RETRY_S },
                    next => next,
                }
            }
            Next::Prove => match updater.prove().map(|verified| verified.activate()) {
                Ok(Ok(_)) => {
                    line.say(format_args!("fota: proven, starting the new image"));
                    line.reset()
                }
                refused => {
                    line.say(format_args!("fota: not installed: {refused:?}"));
                    updater.next()
                }
            },
            Next::Wait { seconds } => {
                board::sleep_s(seconds);
                match updater.tick(board::uptime_s()) {
                    Ok(Some(_)) => line.reset(),
                    _ => Next::CheckIn,
                }
            }
            Next::Reset(_) => line.reset(),
        }
    }
}

fn check_in(line: &mut Line, updater: &mut Device, buffer: &mut [u8; CHECK_IN_BYTES_MAX]) -> Next {
    let mut answer = [0; CHECK_IN_BYTES_MAX];
    let request = updater.check_in(board::random(), board::uptime_s(), buffer);
    let next = step(line, &mut answer, Ask::CheckIn(request), |body| {
        updater.answer(body)
    });
    // The self-test of this firmware: it starts, and a server that it trusts has answered.
    let answered = !matches!(next, Next::Wait { seconds: RETRY_S });
    if updater.is_on_trial() && answered {
        let outcome = updater.confirm();
        line.say(format_args!("fota: confirmed: {outcome:?}"));
    }
    next
}

/// Asks, and gives the answer to the updater. What does not work is tried again later.
fn step<E: core::fmt::Display>(
    line: &mut Line,
    buffer: &mut [u8; CHECK_IN_BYTES_MAX],
    ask: Ask,
    take: impl FnOnce(&[u8]) -> Result<Next, E>,
) -> Next {
    let retry = Next::Wait { seconds: RETRY_S };
    let Some(length) = line.ask(&ask, buffer) else {
        return retry;
    };
    match take(&buffer[..length]) {
        Ok(next) => next,
        Err(error) => {
            line.say(format_args!("fota: {error}"));
            retry
        }
    }
}

fn download(
    line: &mut Line,
    updater: &mut Device,
    part: &Download,
    buffer: &mut [u8; CHECK_IN_BYTES_MAX],
) {
    line.say(format_args!(
        "fota: bytes {} to {} of {}",
        part.from,
        part.to,
        part.blob.short()
    ));
    let mut from = part.from;
    while from < part.to {
        let ask = Ask::Blob {
            blob: part.blob,
            from,
            to: part.to,
        };
        let Some(length) = line.ask(&ask, buffer).filter(|length| *length > 0) else {
            return;
        };
        if let Err(error) = updater.receive(&buffer[..length]) {
            return line.say(format_args!("fota: {error}"));
        }
        from += length as u32;
    }
}
