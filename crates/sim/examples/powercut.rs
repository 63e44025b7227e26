//! A short run of the power-cut proof without a server to build: what `cargo xtask mutants` runs on
//! each mutant. Exits with 1 where a promise does not hold.

use std::process::ExitCode;

use fota_sim::powercut::{Phase, Plan};

fn main() -> ExitCode {
    for phase in Phase::ALL {
        for &mode in phase.modes() {
            match Plan::SHORT.run(phase, mode) {
                Ok(row) => println!("{}, {}: {} cuts", phase.name(), mode.name(), row.executed),
                Err(found) => {
                    println!("{}: {found}", phase.name());
                    return ExitCode::FAILURE;
                }
            }
        }
    }
    ExitCode::SUCCESS
}
