//! The C extension: a 16-bit instruction as the 32-bit one that it stands for.
//!
//! From the tables of the RISC-V unprivileged specification, "C extension".

/// The instruction that `half` stands for; `None` if it stands for none on an RV32 without floats.
pub fn expand(half: u16) -> Option<u32> {
    let word = u32::from(half);
    let kind = word >> 13;
    match word & 3 {
        0 => quadrant_0(word, kind),
        1 => quadrant_1(word, kind),
        _ => quadrant_2(word, kind),
    }
}

const SP: u32 = 2;
const RA: u32 = 1;

fn quadrant_0(word: u32, kind: u32) -> Option<u32> {
    let (rs, rd) = (short(word, 7), short(word, 2));
    let offset = bits(word, 10, 3) << 3 | bits(word, 6, 1) << 2 | bits(word, 5, 1) << 6;
    match kind {
        0 => {
            let add = bits(word, 11, 2) << 4
                | bits(word, 7, 4) << 6
                | bits(word, 6, 1) << 2
                | bits(word, 5, 1) << 3;
            (add != 0).then(|| addi(rd, SP, add))
        }
        2 => Some(lw(rd, rs, offset)),
        6 => Some(sw(rs, rd, offset)),
        _ => None,
    }
}

fn quadrant_1(word: u32, kind: u32) -> Option<u32> {
    let rd = bits(word, 7, 5);
    let value = sign_extend(bits(word, 12, 1) << 5 | bits(word, 2, 5), 6);
    let jump = sign_extend(
        bits(word, 12, 1) << 11
            | bits(word, 11, 1) << 4
            | bits(word, 9, 2) << 8
            | bits(word, 8, 1) << 10
            | bits(word, 7, 1) << 6
            | bits(word, 6, 1) << 7
            | bits(word, 3, 3) << 1
            | bits(word, 2, 1) << 5,
        12,
    );
    let branch = sign_extend(
        bits(word, 12, 1) << 8
            | bits(word, 10, 2) << 3
            | bits(word, 5, 2) << 6
            | bits(word, 3, 2) << 1
            | bits(word, 2, 1) << 5,
        9,
    );
    match kind {
        0 => Some(addi(rd, rd, value)),
        1 => Some(jal(RA, jump)),
        2 => Some(addi(rd, 0, value)),
        3 if rd == SP => {
            let add = bits(word, 12, 1) << 9
                | bits(word, 6, 1) << 4
                | bits(word, 5, 1) << 6
                | bits(word, 3, 2) << 7
                | bits(word, 2, 1) << 5;
            Some(addi(SP, SP, sign_extend(add, 10)))
        }
        3 => Some(value << 12 | rd << 7 | 0x37),
        4 => arithmetic(word, value),
        5 => Some(jal(0, jump)),
        6 => Some(branch_zero(0, short(word, 7), branch)),
        _ => Some(branch_zero(1, short(word, 7), branch)),
    }
}

fn arithmetic(word: u32, value: u32) -> Option<u32> {
    let (rd, rs) = (short(word, 7), short(word, 2));
    let shift = value & 0x3F;
    let register =
        |high: u32, kind: u32| Some(high << 25 | rs << 20 | rd << 15 | kind << 12 | rd << 7 | 0x33);
    match (bits(word, 10, 2), bits(word, 12, 1), bits(word, 5, 2)) {
        (0, 0, _) => Some(shift << 20 | rd << 15 | 5 << 12 | rd << 7 | 0x13),
        (1, 0, _) => Some(0x20 << 25 | shift << 20 | rd << 15 | 5 << 12 | rd << 7 | 0x13),
        (2, ..) => Some(value << 20 | rd << 15 | 7 << 12 | rd << 7 | 0x13),
        (3, 0, 0) => register(0x20, 0),
        (3, 0, 1) => register(0, 4),
        (3, 0, 2) => register(0, 6),
        (3, 0, 3) => register(0, 7),
        _ => None,
    }
}

fn quadrant_2(word: u32, kind: u32) -> Option<u32> {
    let (rd, rs) = (bits(word, 7, 5), bits(word, 2, 5));
    match kind {
        0 if bits(word, 12, 1) == 0 => Some(rs << 20 | rd << 15 | 1 << 12 | rd << 7 | 0x13),
        2 => {
            let offset = bits(word, 12, 1) << 5 | bits(word, 4, 3) << 2 | bits(word, 2, 2) << 6;
            (rd != 0).then(|| lw(rd, SP, offset))
        }
        4 => match (bits(word, 12, 1), rd, rs) {
            (0, 0, 0) => None,
            (0, _, 0) => Some(jalr(0, rd)),
            (1, 0, 0) => Some(0x0010_0073),
            (1, _, 0) => Some(jalr(RA, rd)),
            (0, ..) => Some(rs << 20 | rd << 7 | 0x33),
            _ => Some(rs << 20 | rd << 15 | rd << 7 | 0x33),
        },
        6 => Some(sw(SP, rs, bits(word, 9, 4) << 2 | bits(word, 7, 2) << 6)),
        _ => None,
    }
}

fn bits(word: u32, from: u32, count: u32) -> u32 {
    word >> from & ((1 << count) - 1)
}

/// A register of the eight that three bits can name.
fn short(word: u32, from: u32) -> u32 {
    8 + bits(word, from, 3)
}

fn sign_extend(value: u32, bits: u32) -> u32 {
    ((value << (32 - bits)) as i32 >> (32 - bits)) as u32
}

fn addi(rd: u32, rs: u32, value: u32) -> u32 {
    value << 20 | rs << 15 | rd << 7 | 0x13
}

fn lw(rd: u32, rs: u32, offset: u32) -> u32 {
    offset << 20 | rs << 15 | 2 << 12 | rd << 7 | 0x03
}

fn sw(base: u32, rs: u32, offset: u32) -> u32 {
    offset >> 5 << 25 | rs << 20 | base << 15 | 2 << 12 | (offset & 31) << 7 | 0x23
}

fn jalr(rd: u32, rs: u32) -> u32 {
    rs << 15 | rd << 7 | 0x67
}

fn jal(rd: u32, offset: u32) -> u32 {
    (offset >> 20 & 1) << 31
        | (offset >> 1 & 0x3FF) << 21
        | (offset >> 11 & 1) << 20
        | (offset >> 12 & 0xFF) << 12
        | rd << 7
        | 0x6F
}

fn branch_zero(kind: u32, rs: u32, offset: u32) -> u32 {
    (offset >> 12 & 1) << 31
        | (offset >> 5 & 0x3F) << 25
        | rs << 15
        | kind << 12
        | (offset >> 1 & 0xF) << 8
        | (offset >> 11 & 1) << 7
        | 0x63
}

#[cfg(test)]
mod tests {
    use super::expand;

    #[test]
    fn halves_stand_for_what_the_assembler_says() {
        // Pairs of GNU as: `.option rvc` and `.option norvc` of the same line.
        for (half, word) in [
            (0x1141, 0xFF01_0113), // addi sp, sp, -16
            (0xC606, 0x0011_2623), // sw ra, 12(sp)
            (0x40B2, 0x00C1_2083), // lw ra, 12(sp)
            (0x8082, 0x0000_8067), // ret
            (0x0808, 0x0101_0513), // addi a0, sp, 16
            (0x4501, 0x0000_0513), // li a0, 0
            (0x95AA, 0x00A5_85B3), // add a1, a1, a0
            (0x8D89, 0x40A5_85B3), // sub a1, a1, a0
            (0x9002, 0x0010_0073), // ebreak
            (0x717D, 0xFF01_0113), // addi sp, sp, -16 as addi16sp
            (0x67C1, 0x0001_07B7), // lui a5, 0x10
        ] {
            assert_eq!(expand(half), Some(word), "{half:#06x}");
        }
        assert_eq!(expand(0), None);
    }
}
