//! Numbers as the lab's files write them: `"0x40000000"`, or a plain JSON number.

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use std::fmt;

/// A 64-bit value that is written as a hexadecimal string, and read from one, from a decimal one or from a number.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Hex(pub u64);

impl fmt::Display for Hex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}

impl fmt::Debug for Hex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for Hex {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Hex {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl de::Visitor<'_> for Visitor {
            type Value = Hex;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number, or a string such as \"0x40000000\"")
            }
            fn visit_u64<E: de::Error>(self, value: u64) -> Result<Hex, E> {
                Ok(Hex(value))
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Hex, E> {
                let text = text.trim();
                let parsed = match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
                    Some(digits) => u64::from_str_radix(&digits.replace('_', ""), 16),
                    None => text.parse(),
                };
                parsed
                    .map(Hex)
                    .map_err(|_| E::invalid_value(de::Unexpected::Str(text), &self))
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

#[cfg(test)]
mod tests {
    use super::Hex;

    #[test]
    fn reads_strings_and_numbers_and_nothing_else() {
        for (text, value) in [
            ("\"0x40\"", 0x40),
            ("\"0XfF\"", 255),
            ("\"12\"", 12),
            ("7", 7),
        ] {
            assert_eq!(serde_json::from_str::<Hex>(text).unwrap().0, value);
        }
        for text in [
            "-1",
            "\"x\"",
            "\"0x1_0000_0000_0000_0000\"",
            "1.5",
            "null",
            "\"\"",
        ] {
            assert!(serde_json::from_str::<Hex>(text).is_err(), "{text}");
        }
        assert_eq!(serde_json::to_string(&Hex(255)).unwrap(), "\"0xff\"");
    }
}
