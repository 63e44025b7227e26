//! The chores of this repository, as plain Rust: `cargo xtask ci|tidy|dev|…`.
//!
//! Nothing here ships. Each chore is a function of its own module; `ci` is the list of those that
//! must pass before a change lands, and `.ci/run` is what installs what they need and runs them.

mod bench_delta;
mod browser;
mod ci;
mod corpus;
mod delta_c;
mod deny;
mod dev;
mod emulator;
mod fuzz;
mod hotfix;
mod mqtt;
mod mutants;
mod no_std;
mod postgres;
mod process;
mod readme;
mod rv32;
mod rv32_delta;
mod rv32_device;
mod signed;
mod tidy;
mod tools;

use std::process::ExitCode;

const HELP: &str = "\
cargo xtask CHORE

  ci [--only STEP]… [--fail-fast] [--list]   everything that must pass before a change lands
  tidy [--fix]        house rules that no other tool checks; --fix rewrites docs/codes.md
  dev                 a server with three simulated devices, rebuilt at each start
  corpus              fetch and check the real ESP32 images of xtask/corpus.json
  bench-delta         patches of the corpus, ours and those of others: sizes, times, memory, targets
  fuzz [TARGET] [--runs N] [--seconds N]     libFuzzer on the stable compiler
  no-std              build proto, image, delta and device for a microcontroller, without an allocator
  rv32-device [--fix] one update by the device crate on an RV32 in QEMU: code, memory, instructions,
                      compared with README's table; --fix rewrites it
  emulator            Espressif's real ROM and bootloader, and a firmware that updates itself, in an
                      emulator of the ESP32-C3
  mutants [TEXT]      take precautions away in the device crate; the power-cut proof must find each
  rv32-delta          decode a real patch on an RV32 in QEMU: memory, instructions
  test                all tests, those of the store on SQLite and on a PostgreSQL started for them
  mqtt                what is published over MQTT, against Mosquitto
  readme              run the commands of README.md as they are written
  browser             drive the dashboard in a headless browser, beside a running demo
  screenshots         make the pictures of the dashboard that README shows
  deny                licences and bans of the dependencies
";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let rest = args.get(1..).unwrap_or_default();
    let done = match args.first().map(String::as_str) {
        Some("ci") => ci::main(rest),
        Some("tidy") => tidy::main(rest),
        Some("dev") => dev::main(),
        Some("corpus") => corpus::fetch().map(drop),
        Some("bench-delta") => bench_delta::run_all(),
        Some("emulator") => emulator::run_all(),
        Some("fuzz") => fuzz::main(rest),
        Some("no-std") => no_std::build(),
        Some("rv32-delta") => rv32_delta::run_all(),
        Some("rv32-device") => rv32_device::main(rest),
        Some("test") => postgres::test(),
        Some("mutants") => mutants::main(rest),
        Some("mqtt") => mqtt::run(),
        Some("readme") => readme::run(),
        Some("browser") => browser::run(),
        Some("screenshots") => browser::screenshots(),
        Some("deny") => deny::check(),
        _ => {
            eprint!("{HELP}");
            return ExitCode::from(2);
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
