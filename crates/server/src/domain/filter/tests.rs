use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

/// Values by field, as written.
struct Device(BTreeMap<&'static str, Vec<&'static str>>);

impl Traits for Device {
    fn any(&self, field: &Field, holds: &mut dyn FnMut(&str) -> bool) -> bool {
        let values = self.0.get(field.to_string().as_str());
        values.is_some_and(|values| values.iter().any(|value| holds(value)))
    }
}

fn device() -> Device {
    Device(BTreeMap::from([
        ("id", vec!["roof-07"]),
        ("version", vec!["1.9.3"]),
        ("project", vec!["sensor"]),
        ("chip", vec!["esp32s3"]),
        ("group", vec!["roof", "berlin"]),
        ("tag.site", vec!["north gate"]),
        ("attr.battery", vec!["83"]),
    ]))
}

#[test]
fn filters_say_which_devices() {
    for (text, meant) in [
        ("all", true),
        ("id == roof-07", true),
        ("id == \"roof-07\"", true),
        ("id =~ roof-*", true),
        ("id =~ roof-?7 and id =~ *7", true),
        ("id =~ roof", false),
        ("version < 1.10", true),
        ("version >= 1.9.3 and version <= v1.9.3", true),
        ("version > 1.9.3", false),
        ("group == roof", true),
        ("group == berlin and not group == lab", true),
        ("group != roof", false),
        ("tag.site == \"north gate\"", true),
        ("tag.site =~ *gate", true),
        ("has tag.site and not has tag.owner", true),
        // Where there is no value, nothing compares, and so `!=` holds.
        ("tag.owner == ann", false),
        ("tag.owner < 5", false),
        ("tag.owner != ann", true),
        ("attr.battery >= 9", true),
        ("attr.battery >= 100", false),
        ("chip in (esp32, esp32s3)", true),
        ("chip in (esp32)", false),
        // `and` binds closer than `or`, `not` closest.
        ("chip == esp32 and id == x or group == roof", true),
        ("chip == esp32 and (id == x or group == roof)", false),
        ("not chip == esp32 and group == roof", true),
        ("not (chip == esp32 or group == roof)", false),
    ] {
        let filter: Filter = text
            .parse()
            .unwrap_or_else(|error| panic!("{text}: {error}"));
        assert_eq!(filter.matches(&device()), meant, "{text}");
        assert_eq!(filter.to_string(), text);
    }
}

#[test]
fn what_is_no_filter_is_refused_with_the_place_and_what_belongs_there() {
    for (text, says) in [
        (
            "",
            "character 1: found the end, expected a field, `not`, `has`, `all` or `(`",
        ),
        (
            "vesion == 1",
            "character 1: \"vesion\" is no field: one of id, version",
        ),
        ("version = 1", "character 9: found `=`, expected `==`"),
        (
            "version ==",
            "character 11: found the end, expected a value",
        ),
        (
            "version == 1 group == x",
            "character 14: found `group`, expected `and`, `or` or the end",
        ),
        (
            "(id == a",
            "character 9: found the end, expected `and`, `or` or `)`",
        ),
        ("id in a", "character 7: found `a`, expected `(`"),
        (
            "id in (a b)",
            "character 10: found `b`, expected `,` or `)`",
        ),
        (
            "id == \"a",
            "character 7: the text that begins here has no closing quote",
        ),
        (
            "id == ä and id == $",
            "character 19: '$' means nothing here",
        ),
        ("tag. == a", "character 1: \"tag.\" is no field"),
        ("id == a and", "character 12: found the end"),
    ] {
        let error = text.parse::<Filter>().expect_err(text).to_string();
        assert!(error.contains(says), "{text}: {error}");
    }
}

#[test]
fn limits_hold() {
    let says = |text: String| text.parse::<Filter>().expect_err("too much").to_string();
    let long = says(format!("id == {}", "a".repeat(FILTER_BYTES_MAX)));
    assert!(long.contains("1030, at most 1024"), "{long}");
    let deep = says(format!("{}id == a", "not ".repeat(DEPTH_MAX + 1)));
    assert!(deep.contains("17, at most 16"), "{deep}");
    let wide = says(vec!["id == a"; TERMS_MAX + 1].join(" or "));
    assert!(wide.contains("65, at most 64"), "{wide}");
    let fits = format!("{}id == a", "not ".repeat(DEPTH_MAX));
    assert!(fits.parse::<Filter>().is_ok());
}

#[test]
fn versions_are_ordered_as_people_read_them() {
    let rising = [
        "1.0.0-alpha",
        "1.0.0-alpha.1",
        "1.0.0-beta",
        "1.0.0-rc.2",
        "1.0.0-rc.11",
        "1.0.0",
        "1.0.0.1",
        "1.0.1",
        "1.2",
        "1.2.0",
        "v1.10.0",
        "2024.3",
        "2024.11",
    ];
    for (at, left) in rising.iter().enumerate() {
        for (other, right) in rising.iter().enumerate() {
            assert_eq!(version_order(left, right), at.cmp(&other), "{left} {right}");
        }
    }
    assert_eq!(version_order("1.2.0+build7", "v1.02.0"), Ordering::Equal);
}

proptest! {
    #[test]
    fn any_text_is_read_or_refused_with_a_place_in_it(text in "[a-z0-9 .=<>!~()\",*\\\\-]{0,60}|\\PC{0,40}") {
        match text.parse::<Filter>() {
            Ok(filter) => {
                filter.matches(&device());
                let again: Filter = filter.to_string().parse().expect("what it prints is a filter");
                prop_assert_eq!(again, filter);
            }
            Err(error) => prop_assert!(
                (1..=text.chars().count() + 1).contains(&error.position), "{}", error
            ),
        }
    }

    #[test]
    fn patterns_match_as_an_expression_would(value in "[ab]{0,8}", pattern in "[ab*?]{0,6}") {
        prop_assert_eq!(is_like(&value, &pattern), slowly_like(&value, &pattern));
    }

    #[test]
    fn version_order_is_an_order(a in "[v0-9.a-]{0,6}", b in "[v0-9.a-]{0,6}", c in "[v0-9.a-]{0,6}") {
        prop_assert_eq!(version_order(&a, &b), version_order(&b, &a).reverse());
        if version_order(&a, &b).is_le() && version_order(&b, &c).is_le() {
            prop_assert!(version_order(&a, &c).is_le());
        }
    }
}

/// The definition, by trying everything.
fn slowly_like(value: &str, pattern: &str) -> bool {
    let Some(first) = pattern.chars().next() else {
        return value.is_empty();
    };
    let rest = &pattern[1..];
    match first {
        '*' => (0..=value.len()).any(|at| slowly_like(&value[at..], rest)),
        '?' => !value.is_empty() && slowly_like(&value[1..], rest),
        wanted => value.starts_with(wanted) && slowly_like(&value[1..], rest),
    }
}

#[test]
fn a_filter_is_decided_without_the_id_where_the_id_does_not_matter() {
    for (text, decided) in [
        ("version < 1.10", Some(true)),
        ("id == roof-07", None),
        ("id == roof-07 and version > 2", Some(false)),
        ("id == roof-07 or version < 2", Some(true)),
        ("id == roof-07 or version > 2", None),
        ("not (id == roof-07 and version > 2)", Some(true)),
        ("not has id", None),
    ] {
        let filter: Filter = text.parse().expect("a filter");
        let found = filter.decided(&device(), &|field| *field == Field::Id);
        assert_eq!(found, decided, "{text}");
        // What is decided is what holds.
        assert!(found.is_none_or(|found| found == filter.matches(&device())));
    }
    let only = |text: &str| {
        let filter: Filter = text.parse().expect("a filter");
        filter.only_ids().map(<[String]>::len)
    };
    assert_eq!(
        only("version < 2 and (id in (a, b) and chip == esp32)"),
        Some(2)
    );
    assert_eq!(only("id in (a, b) or chip == esp32"), None);
    assert_eq!(only("not id == a"), None);
}
