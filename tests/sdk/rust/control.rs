//! The codec is held to the vectors of tests/data/control/, like every language's; its README says what they mean.

use std::fs;
use std::path::Path;

use ciborium::Value;
use rrd::control::{encode, Decoder, Map};
use serde_json::Value as Json;

fn vectors(name: &str) -> Vec<Json> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/data/control").join(name);
    let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let vectors: Vec<Json> = serde_json::from_str(&text).unwrap();
    assert!(vectors.len() > 10);
    vectors
}

fn bytes_of(vector: &Json) -> Vec<u8> {
    let hex = vector["hex"].as_str().unwrap();
    (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect()
}

fn value_of(json: &Json) -> Value {
    match json {
        Json::Null => Value::Null,
        Json::Bool(value) => Value::Bool(*value),
        Json::Number(number) => match (number.as_u64(), number.as_i64(), number.as_f64()) {
            (Some(number), ..) => number.into(),
            (_, Some(number), _) => number.into(),
            (.., number) => Value::Float(number.unwrap()),
        },
        Json::String(text) => Value::Text(text.clone()),
        Json::Array(items) => Value::Array(items.iter().map(value_of).collect()),
        Json::Object(pairs) => {
            Value::Map(pairs.iter().map(|(key, value)| (Value::Text(key.clone()), value_of(value))).collect())
        }
    }
}

fn map_of(json: &Json) -> Map {
    Map::from_value(value_of(json)).unwrap()
}

/// All messages in some bytes, fed in pieces.
fn decode(bytes: &[u8], piece: usize) -> Result<Vec<Map>, rrd::Error> {
    let (mut decoder, mut found) = (Decoder::default(), Vec::new());
    for part in bytes.chunks(piece.max(1)) {
        decoder.receive_data(part);
        while let Some(message) = decoder.next_message()? {
            found.push(message);
        }
    }
    Ok(found)
}

#[test]
fn encodes_the_vectors() {
    for vector in vectors("encode.json") {
        let (bytes, message) = (bytes_of(&vector), map_of(&vector["message"]));
        assert_eq!(encode(message.clone()).unwrap(), bytes, "{}", vector["name"]);
        assert_eq!(decode(&bytes, bytes.len()).unwrap(), [message], "{}", vector["name"]);
    }
}

#[test]
fn decodes_the_vectors_however_they_are_cut() {
    for vector in vectors("decode.json") {
        let bytes = bytes_of(&vector);
        let expected: Vec<_> = vector["messages"].as_array().unwrap().iter().map(map_of).collect();
        for piece in [1, 3, bytes.len()] {
            assert_eq!(decode(&bytes, piece).unwrap(), expected, "{} in pieces of {piece}", vector["name"]);
        }
    }
}

#[test]
fn refuses_what_is_no_message() {
    for vector in vectors("errors.json") {
        let bytes = bytes_of(&vector);
        for piece in [1, bytes.len()] {
            let found = decode(&bytes, piece);
            assert!(matches!(found, Err(rrd::Error::Protocol(_))), "{}: {found:?}", vector["name"]);
        }
    }
}

#[test]
fn a_message_has_its_limit() {
    let sized = |size: usize| encode(Map::new().with("a", "x".repeat(size)));
    assert_eq!(sized((1 << 20) - 8).unwrap().len(), 4 + (1 << 20));
    assert!(matches!(sized((1 << 20) - 7), Err(rrd::Error::Protocol(_))));
}
