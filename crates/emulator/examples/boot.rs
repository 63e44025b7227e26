//! Starts an app image with the real ROM and bootloader and shows what it prints, for so many
//! millions of instructions:
//! `FOTA_ESPFLASH=… cargo run --release -p fota-emulator --example boot IMAGE [MILLIONS]`

use std::{
    env,
    error::Error,
    fs,
    io::{self, Write},
};

use fota_emulator::{Board, Files};
use fota_image::partition::TableBuilder;

fn main() -> Result<(), Box<dyn Error>> {
    let mut args = env::args().skip(1);
    let image = fs::read(args.next().ok_or("wanted: IMAGE [MILLIONS]")?)?;
    let millions: u64 = args.next().map_or(Ok(100), |text| text.parse())?;
    let files = Files::read()?;
    let table = TableBuilder::two_ota(0x18_0000).trust().build()?;
    let board = Board {
        table: &table,
        images: &[(0x1_0000, &image)],
    };
    let mut machine = board.power_on(&files)?;
    let mut trap = None;
    for _ in 0..millions * 10 {
        machine.run(100_000);
        io::stdout().write_all(&machine.take_sent())?;
        if machine.last_trap() != trap {
            trap = machine.last_trap();
            eprintln!("exception: {trap:x?}, ra {:#x}", machine.register(1));
        }
    }
    let mut symbols = files.rom()?.symbols()?;
    symbols.sort_by_key(|symbol| symbol.1);
    let before = symbols.iter().rev().find(|symbol| symbol.1 <= machine.pc());
    eprintln!(
        "stopped at {:#x}, the last ROM symbol before it is {:?}; resets {:?}; {} us",
        machine.pc(),
        before.map(|symbol| &symbol.0),
        machine.resets,
        machine.time_us(),
    );
    Ok(())
}
