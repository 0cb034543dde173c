//! Netlink's outer layer: headers, acknowledgements and the kernel's own words about an error.
//! Nothing here trusts a length; source: `include/uapi/linux/netlink.h`.

#![forbid(unsafe_code)]

use netlink_packet_core::{NLM_F_ACK_TLVS, NLM_F_CAPPED};

/// `sizeof(struct nlmsghdr)`.
pub(super) const HEADER: usize = 16;
/// `NLMSGERR_ATTR_MSG`.
const ATTR_MESSAGE: u16 = 1;
/// Longest text of the kernel that is kept, in bytes.
const TEXT: usize = 256;

/// One message within a datagram.
pub(super) struct Frame<'a> {
    /// `nlmsg_type`.
    pub(super) kind: u16,
    /// `nlmsg_flags`.
    pub(super) flags: u16,
    /// `nlmsg_seq`.
    pub(super) sequence: u32,
    /// What follows the header.
    pub(super) body: &'a [u8],
}

/// Splits a datagram; stops with `None` in the middle of what is malformed.
pub(super) fn frames(mut rest: &[u8]) -> impl Iterator<Item = Option<Frame<'_>>> {
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let Some((frame, length)) = frame(rest) else {
            rest = &[];
            return Some(None);
        };
        rest = rest.get(align(length)..).unwrap_or_default();
        Some(Some(frame))
    })
}

fn frame(bytes: &[u8]) -> Option<(Frame<'_>, usize)> {
    let length = usize::try_from(word(bytes, 0)?).ok()?;
    let body = bytes.get(HEADER..length)?;
    Some((Frame { kind: half(bytes, 4)?, flags: half(bytes, 6)?, sequence: word(bytes, 8)?, body }, length))
}

impl Frame<'_> {
    /// Of `NLMSG_ERROR` and `NLMSG_DONE`: the error number (0: success), and the kernel's words, if any.
    pub(super) fn outcome(&self, done: Ending) -> (i32, String) {
        let code = word(self.body, 0).map_or(0, |code| i32::from_ne_bytes(code.to_ne_bytes()));
        let mut words = String::new();
        if self.flags & NLM_F_ACK_TLVS != 0 {
            let echoed = match done {
                Ending::Dump => 0,
                Ending::Request if self.flags & NLM_F_CAPPED != 0 => HEADER,
                Ending::Request => {
                    word(self.body, 4).and_then(|n| usize::try_from(n).ok()).map_or(HEADER, align)
                }
            };
            words = self.body.get(4 + echoed..).map(text).unwrap_or_default();
        }
        (code.saturating_neg(), words)
    }
}

/// What a frame ends.
#[derive(Clone, Copy)]
pub(super) enum Ending {
    /// `NLMSG_DONE`.
    Dump,
    /// `NLMSG_ERROR`.
    Request,
}

/// `NLMSGERR_ATTR_MSG` among extended acknowledgement attributes.
fn text(mut rest: &[u8]) -> String {
    while let (Some(length), Some(kind)) = (half(rest, 0), half(rest, 2)) {
        let length = usize::from(length);
        let Some(value) = rest.get(4..length) else { break };
        if kind & 0x3fff == ATTR_MESSAGE {
            let value = value.split(|byte| *byte == 0).next().unwrap_or_default();
            return String::from_utf8_lossy(&value[..value.len().min(TEXT)]).into_owned();
        }
        rest = rest.get(align(length)..).unwrap_or_default();
    }
    String::new()
}

fn align(length: usize) -> usize {
    length.saturating_add(3) & !3
}

fn half(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(kind: u16, flags: u16, body: &[u8]) -> Vec<u8> {
        let mut out = u32::try_from(HEADER + body.len()).expect("small").to_ne_bytes().to_vec();
        out.extend(kind.to_ne_bytes());
        out.extend(flags.to_ne_bytes());
        out.extend(7u32.to_ne_bytes());
        out.extend(0u32.to_ne_bytes());
        out.extend(body);
        out.resize(align(out.len()), 0);
        out
    }

    #[test]
    fn two_frames_are_split() {
        let mut data = bytes(2, 0, &[1, 2, 3]);
        data.extend(bytes(3, 0, &[]));
        let kinds: Vec<u16> = frames(&data).map(|f| f.expect("well formed").kind).collect();
        assert_eq!(kinds, [2, 3]);
    }

    #[test]
    fn the_kernels_words_are_found_behind_a_capped_request() {
        let mut body = (-libc::EINVAL).to_ne_bytes().to_vec();
        body.extend([0; HEADER]);
        body.extend(9u16.to_ne_bytes());
        body.extend(ATTR_MESSAGE.to_ne_bytes());
        body.extend(b"odd\0\0");
        let data = bytes(2, NLM_F_CAPPED | NLM_F_ACK_TLVS, &body);
        let frame = frames(&data).next().flatten().expect("well formed");
        assert_eq!(frame.outcome(Ending::Request), (libc::EINVAL, "odd".to_owned()));
    }

    #[test]
    fn no_cut_of_a_message_panics_or_loops() {
        let mut body = (-libc::EPERM).to_ne_bytes().to_vec();
        body.extend([0xff; 40]);
        let data = bytes(2, NLM_F_ACK_TLVS, &body);
        for end in 0..data.len() {
            for frame in frames(&data[..end]).flatten() {
                frame.outcome(Ending::Request);
                frame.outcome(Ending::Dump);
            }
        }
        assert!(frames(&[0; 64]).count() <= 4);
    }
}
