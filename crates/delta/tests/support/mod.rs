//! Firmware made up for the tests: functions that call each other and load each other's addresses,
//! linked one after the other, so that a change in one moves all that follow.

#![allow(dead_code)] // each test file uses a part

use fota_delta::{DecodeError, Decoder, DefaultDecoder, Event, Images, SmallDecoder};

/// Which instructions an image has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Chip {
    Esp32,
    Esp32C3,
}

/// A function, by what its bytes follow from.
#[derive(Clone, Copy, Debug)]
pub struct Function {
    pub seed: u64,
    pub instructions: usize,
}

/// SplitMix64.
pub struct Dice(pub u64);

impl Dice {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut word = self.0;
        word = (word ^ (word >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        word ^ (word >> 31)
    }

    pub fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }
}

pub fn functions(count: usize, seed: u64) -> Vec<Function> {
    let mut dice = Dice(seed);
    let one = |dice: &mut Dice| Function {
        seed: dice.next(),
        instructions: 8 + dice.below(60),
    };
    (0..count).map(|_| one(&mut dice)).collect()
}

/// Changes, removes and adds `count` functions.
pub fn edit(functions: &mut Vec<Function>, count: usize, dice: &mut Dice) {
    for _ in 0..count {
        let place = dice.below(functions.len());
        let new = Function {
            seed: dice.next(),
            instructions: 8 + dice.below(60),
        };
        match dice.below(4) {
            0 => functions.insert(place, new),
            1 if functions.len() > 4 => drop(functions.remove(place)),
            2 => functions[place].instructions += 1 + dice.below(4),
            _ => functions[place] = new,
        }
    }
}

const RODATA: u32 = 0x3F40_0020;
const XTENSA_CODE: u32 = 0x400D_0020;
const RISCV_RODATA: u32 = 0x3C00_0020;
const RISCV_CODE: u32 = 0x4200_0020;

/// Links the functions to an app image: a table of pointers to them, then their code.
pub fn link(chip: Chip, functions: &[Function]) -> Vec<u8> {
    let (number, rodata, base) = match chip {
        Chip::Esp32 => (0, RODATA, XTENSA_CODE),
        Chip::Esp32C3 => (5, RISCV_RODATA, RISCV_CODE),
    };
    let starts = place(chip, functions, base);
    let mut code = Vec::new();
    for (function, start) in functions.iter().zip(&starts) {
        code.resize((start - base) as usize, 0);
        emit(chip, function, *start, &starts, &mut code);
    }
    let pointers: Vec<u8> = starts.iter().flat_map(|it| it.to_le_bytes()).collect();
    let mut image = vec![0xE9, 2, 2, 0x20];
    image.extend(base.to_le_bytes());
    image.extend([0xee, 0, 0, 0, number, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    for (address, bytes) in [(rodata, pointers), (base, code)] {
        image.extend(address.to_le_bytes());
        image.extend((bytes.len() as u32).to_le_bytes());
        image.extend(bytes);
    }
    image.resize(image.len().next_multiple_of(16), 0);
    image
}

/// Each function has one literal in front, and starts at a word.
fn place(chip: Chip, functions: &[Function], base: u32) -> Vec<u32> {
    let mut at = base;
    let mut starts = Vec::new();
    for function in functions {
        starts.push(at);
        let mut code = Vec::new();
        emit(chip, function, at, &[at; 1], &mut code);
        at += (code.len() as u32).next_multiple_of(4);
    }
    starts
}

fn emit(chip: Chip, function: &Function, start: u32, starts: &[u32], code: &mut Vec<u8>) {
    let from = code.len() as u32;
    let mut dice = Dice(function.seed);
    let others: Vec<u64> = (0..4).map(|_| dice.next()).collect();
    let other = |which: usize| starts[(others[which] % starts.len() as u64) as usize];
    if chip == Chip::Esp32 {
        code.extend(other(0).to_le_bytes());
        code.extend([0x36, 0x41, 0x00]);
    }
    for _ in 0..function.instructions {
        let pc = start + (code.len() as u32 - from);
        let (what, which) = (dice.below(8), dice.below(4));
        match chip {
            Chip::Esp32 => xtensa(what, pc, start, other(which), dice.next(), code),
            Chip::Esp32C3 => riscv(what, pc, other(which), dice.next(), code),
        }
    }
    match chip {
        Chip::Esp32 => code.extend([0x1D, 0xF0]),
        Chip::Esp32C3 => code.extend([0x82, 0x80]),
    }
}

fn xtensa(what: usize, pc: u32, literal: u32, target: u32, random: u64, code: &mut Vec<u8>) {
    let word = match what {
        0 | 1 => {
            let entry = target + 4;
            let distance = entry.wrapping_sub((pc & !3).wrapping_add(4)) >> 2;
            0x25 | distance << 6
        }
        2 => {
            let distance = literal.wrapping_sub((pc + 3) & !3) >> 2;
            0x81 | distance << 8
        }
        3 => return code.extend([0x0d | 0x20, random as u8 & 0x0f]),
        _ => (random as u32 & 0xFFFF_FF00) | 0x22,
    };
    code.extend(&word.to_le_bytes()[..3]);
}

fn riscv(what: usize, pc: u32, target: u32, random: u64, code: &mut Vec<u8>) {
    let distance = target.wrapping_sub(pc);
    match what {
        0 | 1 => {
            let bits = (distance >> 20 & 1) << 31
                | (distance >> 1 & 0x3ff) << 21
                | (distance >> 11 & 1) << 20
                | (distance >> 12 & 0xff) << 12;
            code.extend((bits | 0xef).to_le_bytes());
        }
        2 => {
            let high = distance.wrapping_add(0x800) & 0xFFFF_F000;
            code.extend((high | 0x517).to_le_bytes());
            code.extend((distance << 20 | 0x50513).to_le_bytes());
        }
        3 => code.extend([0x01, 0x00]),
        _ => code.extend((random as u32 & 0xFFFF_8F80 | 0x13).to_le_bytes()),
    }
}

/// The flash of a device: the old image, and what was written of the new one.
pub struct Flash<'a> {
    pub old: &'a [u8],
    pub new: Vec<u8>,
}

impl Images for Flash<'_> {
    type Error = String;

    fn read_old(&mut self, offset: u32, to: &mut [u8]) -> Result<(), String> {
        read(self.old, offset, to)
    }

    fn read_new(&mut self, offset: u32, to: &mut [u8]) -> Result<(), String> {
        read(&self.new, offset, to)
    }
}

fn read(from: &[u8], offset: u32, to: &mut [u8]) -> Result<(), String> {
    let end = offset as usize + to.len();
    let part = from.get(offset as usize..end);
    let part = part.ok_or_else(|| format!("{offset}..{end} of {}", from.len()))?;
    to.copy_from_slice(part);
    Ok(())
}

/// Decodes `patch` in the pieces that `pieces` gives the lengths of, over and over.
pub fn decode_with<const S: usize, const B: usize, const P: usize>(
    decoder: &mut Decoder<S, B, P>,
    old: &[u8],
    patch: &[u8],
    pieces: &[usize],
) -> Result<Vec<u8>, DecodeError<String>> {
    let mut flash = Flash {
        old,
        new: Vec::new(),
    };
    let mut lengths = pieces.iter().cycle();
    let mut left = patch;
    let mut piece: &[u8] = &[];
    loop {
        match decoder.push(&mut piece, &mut flash)? {
            Event::NeedInput => {
                assert!(
                    piece.is_empty(),
                    "all of a piece is used before more is asked for"
                );
                if left.is_empty() {
                    return Err(DecodeError::Damaged("the test's patch has ended"));
                }
                let length = *lengths.next().expect("there is a length");
                (piece, left) = left.split_at(length.clamp(1, left.len()));
            }
            Event::Chunk { offset, bytes } => {
                assert_eq!(offset as usize, flash.new.len(), "in order");
                assert!(!bytes.is_empty());
                assert_eq!(offset % 4096, 0);
                flash.new.extend_from_slice(bytes);
            }
            Event::Done => return Ok(flash.new),
        }
    }
}

/// Decodes with the large decoder.
pub fn decode(old: &[u8], patch: &[u8], pieces: &[usize]) -> Result<Vec<u8>, DecodeError<String>> {
    decode_with(&mut Box::new(DefaultDecoder::new()), old, patch, pieces)
}

/// Decodes with the small decoder.
pub fn decode_small(old: &[u8], patch: &[u8]) -> Result<Vec<u8>, DecodeError<String>> {
    decode_with(&mut Box::new(SmallDecoder::new()), old, patch, &[512])
}
