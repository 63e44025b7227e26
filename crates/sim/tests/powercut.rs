#![allow(clippy::disallowed_methods)]
use std::time::Instant;
use fota_sim::powercut::*;
#[test]
fn whole() {
    let plan = Plan { seed: 1, walks: 50, network_stride: 997 };
    let phases: Vec<usize> = std::env::var("PH").map(|p| p.split(',').map(|x| x.parse().unwrap()).collect()).unwrap_or(vec![0,1,3,2,4,5]);
    for ph in phases {
    for mode in Mode::ALL {
        let start = Instant::now();
        let phase = Phase::ALL[ph];
        match plan.run(phase, mode) {
            Ok(figures) => println!("{phase:?} {mode:?} {figures:?} {:.1} s", start.elapsed().as_secs_f32()),
            Err(v) => println!("{phase:?} {mode:?} VIOLATION {v} {:.1}", start.elapsed().as_secs_f32()),
        }
    }}
}
