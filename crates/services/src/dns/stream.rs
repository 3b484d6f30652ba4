//! Names asked for over TCP (RFC 7766): queries and answers behind two bytes with their length, any number of them on
//! one connection, answered in whatever order the answers are known.

/// The longest query; one question and what may stand behind it are shorter by far.
const MAX_QUERY_BYTES: usize = 4096;
/// The longest query with its length.
pub(crate) const MAX_FRAMED_BYTES: usize = 2 + MAX_QUERY_BYTES;

/// A client broke the rules: its connection ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TooLong;

/// Takes the query off the front of `input` that stands there whole, if one does.
pub(crate) fn next_query(input: &mut Vec<u8>) -> Result<Option<Vec<u8>>, TooLong> {
    let Some((length, rest)) = input.split_first_chunk::<2>() else { return Ok(None) };
    let length = usize::from(u16::from_be_bytes(*length));
    if length > MAX_QUERY_BYTES {
        return Err(TooLong);
    }
    let Some(query) = rest.get(..length).map(<[u8]>::to_vec) else { return Ok(None) };
    input.drain(..2 + length);
    Ok(Some(query))
}

/// Puts an answer behind what stands in `output`. None is longer than 65,535 bytes, for so long are messages over TCP.
pub(crate) fn put_answer(output: &mut Vec<u8>, answer: &[u8]) {
    if let Ok(length) = u16::try_from(answer.len()) {
        output.extend_from_slice(&length.to_be_bytes());
        output.extend_from_slice(answer);
    }
}
