//! `canonical_json` (RFC 8785) against the crate `serde_json_canonicalizer`, which formats numbers by
//! another algorithm.

use claviger::crypto::canonical_json;
use proptest::{collection::vec, prelude::*};
use serde_json::Value;

fn assert_canonical(value: &Value) {
    assert_eq!(canonical_json(value), serde_json_canonicalizer::to_string(value).unwrap(), "{value:?}");
}

#[test]
fn numbers_next_to_powers_of_two_and_ten() {
    // RFC 8785 appendix B, and the powers of two and ten, each with its neighbours.
    let mut bits: Vec<u64> = vec![
        0x44b5_2d02_c7e1_4af5,
        0x444b_1ae4_d6e2_ef4e,
        0x3eb0_c6f7_a0b5_ed8c,
        0x41b3_de43_5555_5553,
        0xbecb_f647_612f_3696,
        0x4314_3ff3_c1cb_0959,
        f64::MIN_POSITIVE.to_bits(),
        f64::MAX.to_bits(),
        1,
    ];
    bits.extend((-1074..1024).map(|exponent| 2f64.powi(exponent).to_bits()));
    bits.extend((-323..=308).map(|exponent| format!("1e{exponent}").parse::<f64>().unwrap().to_bits()));
    for bits in bits {
        for bits in [bits.saturating_sub(1), bits, bits + 1] {
            for number in [f64::from_bits(bits), -f64::from_bits(bits)] {
                if number.is_finite() {
                    assert_canonical(&number.into());
                }
            }
        }
    }
    for integer in [0, 1, (1 << 53) - 1, 1 << 53, (1 << 53) + 1, i64::MAX as u64, u64::MAX] {
        assert_canonical(&integer.into());
        assert_canonical(&(integer as i64).into());
    }
}

/// Any value that JSON can hold, with names that sort differently by characters and by UTF-16 code units.
fn any_value() -> impl Strategy<Value = Value> {
    let name = prop_oneof![any::<String>(), "[a-c\u{7f}-\u{81}\u{e000}-\u{e002}\u{1f600}-\u{1f602}]{0,3}"];
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        name.clone().prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 64, 8, move |inner| {
        prop_oneof![
            vec(inner.clone(), 0..8).prop_map(Value::from),
            vec((name.clone(), inner), 0..8).prop_map(|members| Value::Object(members.into_iter().collect())),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_value_is_written_as_the_crate_writes_it(value in any_value()) {
        assert_canonical(&value);
    }

    #[test]
    fn any_number_is_written_as_the_crate_writes_it(bits in any::<u64>()) {
        let number = f64::from_bits(bits);
        prop_assume!(number.is_finite());
        assert_canonical(&number.into());
    }
}
