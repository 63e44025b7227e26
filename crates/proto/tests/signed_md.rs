//! The bytes that `docs/signed-objects.md` prints are those of the conformance vectors, which the
//! encoder makes (see `vectors.rs`).

const DOCUMENT: &str = include_str!("../../../docs/signed-objects.md");

/// A line of a dump is hex digits, then `;` and a remark.
fn bytes_of_dump(dump: &str) -> String {
    let lines = dump
        .lines()
        .map(|line| line.split(';').next().unwrap_or(line));
    lines.flat_map(str::split_whitespace).collect()
}

#[test]
fn the_document_prints_the_real_bytes() {
    let mut dumps = 0;
    for part in DOCUMENT.split("<!-- bytes: ").skip(1) {
        let (name, rest) = part.split_once(" -->").expect("the mark has an end");
        let dump = rest.split("```").nth(1).expect("a dump follows its mark");
        let dump = dump.strip_prefix("text").expect("a dump is text");
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/vectors/signed");
        let file = format!("{folder}/{name}.hex");
        let vector =
            std::fs::read_to_string(&file).unwrap_or_else(|error| panic!("{file}: {error}"));
        let vector: String = vector.split_whitespace().collect();
        assert_eq!(
            bytes_of_dump(dump),
            vector,
            "the dump `{name}` in docs/signed-objects.md"
        );
        dumps += 1;
    }
    assert_eq!(dumps, 4);
}
