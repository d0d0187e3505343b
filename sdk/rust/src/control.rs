//! The control protocol: what a client says to the daemon over the Unix socket. No I/O in here.
//!
//! ```text
//! message  = length u32 BE · CBOR map[length]                     at most 1 MiB
//! client:    {"id": n, "verb": "save", "args": {...}}              descriptors ride along as SCM_RIGHTS
//! daemon:    {"id": n, "ok": {...}} | {"id": n, "error": {"code", "message", "hint"}} | {"id": n, "progress": {...}}
//!            {"event": "ended", "data": {...}}                     unasked, to the client it concerns
//! ```
//!
//! ARCHITECTURE.md of the project has the verbs; tests/data/control/ holds the vectors that this file is tested with.

use ciborium::Value;

use crate::Error;

/// The protocol that is spoken here, said in `hello`.
pub const PROTOCOL: u64 = 1;
/// The longest message either side may send.
pub const MAX_MESSAGE: usize = 1 << 20;
/// No message nests deeper: the map itself is the first level, what it holds the second.
pub const MAX_DEPTH: usize = 16;

/// A CBOR map with text keys, in the order in which they are sent.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Map(Vec<(String, Value)>);

impl Map {
    /// An empty map.
    pub fn new() -> Self {
        Self::default()
    }

    /// The map with one more key.
    pub fn with(mut self, key: &str, value: impl Into<Value>) -> Self {
        self.0.push((key.to_owned(), value.into()));
        self
    }

    /// The map with one more key, or as it is when there is no value.
    pub fn with_some(self, key: &str, value: Option<impl Into<Value>>) -> Self {
        match value {
            Some(value) => self.with(key, value),
            None => self,
        }
    }

    /// The value of a key.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.0.iter().find(|(name, _)| name == key).map(|(_, value)| value)
    }

    /// The text of a key, if it is one.
    pub fn text(&self, key: &str) -> Option<&str> {
        self.get(key).and_then(Value::as_text)
    }

    /// The number of a key, if it is an integer that fits.
    pub fn integer(&self, key: &str) -> Option<u64> {
        self.get(key).and_then(Value::as_integer).and_then(|number| number.try_into().ok())
    }

    /// The truth value of a key, if it is one.
    pub fn boolean(&self, key: &str) -> Option<bool> {
        self.get(key).and_then(Value::as_bool)
    }

    /// The map of a key, if it is one with text keys.
    pub fn map(&self, key: &str) -> Option<Self> {
        self.get(key).cloned().and_then(Self::from_value)
    }

    /// The maps in the list of a key. What is no map is left out.
    pub fn maps(&self, key: &str) -> Vec<Self> {
        let items = self.get(key).and_then(Value::as_array);
        items.into_iter().flatten().cloned().filter_map(Self::from_value).collect()
    }

    /// A map out of any value, None if it is not a map with text keys.
    pub fn from_value(value: Value) -> Option<Self> {
        let Value::Map(pairs) = value else { return None };
        let named = pairs.into_iter().map(|(key, value)| match key {
            Value::Text(name) => Some((name, value)),
            _ => None,
        });
        named.collect::<Option<Vec<_>>>().map(Self)
    }
}

impl From<Map> for Value {
    fn from(map: Map) -> Self {
        Self::Map(map.0.into_iter().map(|(key, value)| (Self::Text(key), value)).collect())
    }
}

/// A message as it goes over the socket.
///
/// # Errors
/// [`Error::Protocol`]: it is longer than [`MAX_MESSAGE`].
pub fn encode(message: Map) -> Result<Vec<u8>, Error> {
    let mut bytes = vec![0; 4];
    write(&Value::from(message), &mut bytes)?;
    let length = bytes.len() - 4;
    if length > MAX_MESSAGE {
        return Err(Error::Protocol(format!("message of {length} bytes, at most {MAX_MESSAGE} are allowed")));
    }
    bytes[..4].copy_from_slice(&u32::try_from(length).unwrap_or(u32::MAX).to_be_bytes());
    Ok(bytes)
}

/// CBOR as the protocol wants it: shortest integers, 64-bit floats, definite lengths. (ciborium shortens floats.)
fn write(value: &Value, out: &mut Vec<u8>) -> Result<(), Error> {
    match value {
        Value::Integer(number) => match i128::from(*number) {
            number @ 0.. => write_head(0, number.unsigned_abs(), out)?,
            number => write_head(1, number.unsigned_abs() - 1, out)?,
        },
        Value::Bytes(bytes) => {
            write_head(2, bytes.len() as u128, out)?;
            out.extend_from_slice(bytes);
        }
        Value::Text(text) => {
            write_head(3, text.len() as u128, out)?;
            out.extend_from_slice(text.as_bytes());
        }
        Value::Array(items) => {
            write_head(4, items.len() as u128, out)?;
            for item in items {
                write(item, out)?;
            }
        }
        Value::Map(pairs) => {
            write_head(5, pairs.len() as u128, out)?;
            for (key, value) in pairs {
                write(key, out)?;
                write(value, out)?;
            }
        }
        Value::Bool(value) => out.push(0xf4 + u8::from(*value)),
        Value::Null => out.push(0xf6),
        Value::Float(number) => {
            out.push(0xfb);
            out.extend_from_slice(&number.to_be_bytes());
        }
        other => return Err(Error::Protocol(format!("cannot encode {other:?}"))),
    }
    Ok(())
}

/// The first bytes of an item: RFC 8949, section 3.
fn write_head(major: u8, argument: u128, out: &mut Vec<u8>) -> Result<(), Error> {
    let too_large = |_| Error::Protocol(format!("cannot encode an integer beyond 64 bits: {argument}"));
    let argument = u64::try_from(argument).map_err(too_large)?;
    let (short, bytes) = (major << 5, argument.to_be_bytes());
    match argument {
        0..=23 => out.push(short | bytes[7]),
        24..=0xff => out.extend_from_slice(&[short | 24, bytes[7]]),
        0x100..=0xffff => {
            out.push(short | 25);
            out.extend_from_slice(&bytes[6..]);
        }
        0x1_0000..=0xffff_ffff => {
            out.push(short | 26);
            out.extend_from_slice(&bytes[4..]);
        }
        _ => {
            out.push(short | 27);
            out.extend_from_slice(&bytes);
        }
    }
    Ok(())
}

/// A request.
pub fn request(id: u64, verb: &str, args: Map) -> Map {
    Map::new().with("id", id).with("verb", verb).with("args", args)
}

/// The first message of every client.
pub fn hello(agent: &str, pid: u32) -> Map {
    request(1, "hello", Map::new().with("protocol", PROTOCOL).with("agent", agent).with("pid", pid))
}

/// Bytes in, messages out. Keeps at most one message and what followed it in the same read.
#[derive(Debug, Default)]
pub struct Decoder {
    buffer: Vec<u8>,
}

impl Decoder {
    /// Store bytes that arrived.
    pub fn receive_data(&mut self, data: &[u8]) {
        self.buffer.extend_from_slice(data);
    }

    /// The next whole message, or None until more bytes arrive.
    ///
    /// # Errors
    /// [`Error::Protocol`]: the bytes are no message: too long, no CBOR, no map, bytes after it.
    pub fn next_message(&mut self) -> Result<Option<Map>, Error> {
        let Some(prefix) = self.buffer.first_chunk::<4>() else { return Ok(None) };
        let length = u32::from_be_bytes(*prefix) as usize;
        if length > MAX_MESSAGE {
            return Err(Error::Protocol(format!(
                "a message of {length} bytes is announced, at most {MAX_MESSAGE} are allowed"
            )));
        }
        if self.buffer.len() < 4 + length {
            return Ok(None);
        }
        let message = decode(&self.buffer[4..4 + length]);
        self.buffer.drain(..4 + length);
        message.map(Some)
    }

    /// Bytes of a message that has not arrived whole.
    pub fn pending(&self) -> usize {
        self.buffer.len()
    }
}

fn decode(body: &[u8]) -> Result<Map, Error> {
    let mut rest = body;
    // One level more than allowed, so that the check below is the one that speaks.
    let value: Value = ciborium::de::from_reader_with_recursion_limit(&mut rest, MAX_DEPTH + 1)
        .map_err(|error| Error::Protocol(format!("not CBOR: {error}")))?;
    if !rest.is_empty() {
        return Err(Error::Protocol(format!("{} bytes after the message", rest.len())));
    }
    if depth(&value) > MAX_DEPTH {
        return Err(Error::Protocol(format!("a message nested deeper than {MAX_DEPTH}")));
    }
    Map::from_value(value).ok_or_else(|| Error::Protocol("a message must be a CBOR map with text keys".to_owned()))
}

fn depth(value: &Value) -> usize {
    let below = match value {
        Value::Map(pairs) => pairs.iter().map(|(_, child)| depth(child)).max(),
        Value::Array(items) => items.iter().map(depth).max(),
        // No message has tags, and shared values (tags 28 and 29) may contain themselves.
        Value::Tag(..) => return MAX_DEPTH + 1,
        _ => None,
    };
    1 + below.unwrap_or(0)
}
