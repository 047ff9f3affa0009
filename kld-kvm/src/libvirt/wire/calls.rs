//! The calls, with their numbers, arguments and results (libvirt's src/remote/remote_protocol.x). Daemons
//! and clients of different ages speak with each other, so numbers and layouts that are out stay as they are.

use uuid::Uuid;

use super::client::{Answer, Call, Client, Refusal, STRING, Trouble};
use super::xdr::{Decoder, Encoder, Malformed};

const CONNECT_OPEN: i32 = 1;
const CONNECT_CLOSE: i32 = 2;
const DOMAIN_GET_XML_DESC: i32 = 14;
const DOMAIN_LOOKUP_BY_NAME: i32 = 23;
const DOMAIN_LOOKUP_BY_UUID: i32 = 24;
const AUTH_LIST: i32 = 66;
const DOMAIN_IS_PERSISTENT: i32 = 151;
const DOMAIN_HAS_MANAGED_SAVE_IMAGE: i32 = 183;
const DOMAIN_GET_STATE: i32 = 212;
const DOMAIN_UNDEFINE_FLAGS: i32 = 231;
const CONNECT_LIST_ALL_DOMAINS: i32 = 273;
const DOMAIN_DEFINE_XML_FLAGS: i32 = 350;

const AUTH_NONE: u32 = 0;
const AUTH_TYPES: usize = 20;
const DOMAINS: usize = 16384;
/// The id of a domain that is off.
const OFF: i32 = -1;

/// What the daemon answered, or why it did not.
pub(super) type Outcome<T> = Result<Result<T, Refusal>, Trouble>;

/// A domain as calls name it. Its name may be no UTF-8.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Domain {
    name: Vec<u8>,
    pub(super) uuid: Uuid,
    id: i32,
}

impl Domain {
    pub(super) fn name(&self) -> String {
        String::from_utf8_lossy(&self.name).into_owned()
    }

    /// Only a running domain has a number.
    pub(super) fn is_off(&self) -> bool {
        self.id == OFF
    }

    fn encode(&self) -> Encoder {
        Encoder::default().string(&self.name).uuid(self.uuid).int(self.id)
    }

    fn decode(decoder: &mut Decoder<'_>) -> Result<Self, Malformed> {
        Ok(Domain { name: decoder.string(STRING)?.to_vec(), uuid: decoder.uuid()?, id: decoder.int()? })
    }
}

/// Opens libvirt's QEMU driver; another one or one that asks who is there is not for this way.
pub(super) fn open(client: &mut Client) -> Result<(), Trouble> {
    let listed = one(client, AUTH_LIST, Encoder::default(), |decoder| {
        (0..decoder.length(AUTH_TYPES)?).map(|_| decoder.word()).collect::<Result<Vec<_>, _>>()
    })?;
    if listed.as_deref() != Ok(&[AUTH_NONE]) {
        return Err(Trouble::Unsent);
    }
    let arguments = Encoder::default().present(b"qemu:///system").word(0);
    one(client, CONNECT_OPEN, arguments, |_| Ok(()))?.map_err(|_| Trouble::Unsent)
}

/// Says goodbye: a daemon that is left without it notes an error in its log.
pub(super) fn close(client: &mut Client) -> Outcome<()> {
    one(client, CONNECT_CLOSE, Encoder::default(), |_| Ok(()))
}

pub(super) fn lookup_by_name(client: &mut Client, name: &str) -> Outcome<Domain> {
    one(client, DOMAIN_LOOKUP_BY_NAME, Encoder::default().string(name.as_bytes()), Domain::decode)
}

pub(super) fn lookup_by_uuid(client: &mut Client, uuid: Uuid) -> Outcome<Domain> {
    one(client, DOMAIN_LOOKUP_BY_UUID, Encoder::default().uuid(uuid), Domain::decode)
}

pub(super) fn list_all(client: &mut Client) -> Outcome<Vec<Domain>> {
    const NEED_RESULTS: i32 = 1;
    one(client, CONNECT_LIST_ALL_DOMAINS, Encoder::default().int(NEED_RESULTS).word(0), |decoder| {
        let domains = (0..decoder.length(DOMAINS)?).map(|_| Domain::decode(decoder)).collect();
        decoder.word()?; // their number once more
        domains
    })
}

pub(super) fn is_persistent(client: &mut Client, domain: &Domain) -> Outcome<bool> {
    one(client, DOMAIN_IS_PERSISTENT, domain.encode(), flag)
}

/// Makes or replaces definitions, several at one time.
pub(super) fn define(
    client: &mut Client,
    definitions: &[&str],
) -> Result<Vec<Result<Domain, Refusal>>, Trouble> {
    let call = |definition: &&str| {
        let arguments = Encoder::default().string(definition.as_bytes()).word(0).finish();
        Call { procedure: DOMAIN_DEFINE_XML_FLAGS, arguments }
    };
    let calls: Vec<_> = definitions.iter().map(call).collect();
    client.exchange(&calls)?.iter().map(|answer| read(answer, Domain::decode)).collect()
}

pub(super) fn undefine(client: &mut Client, domain: &Domain, flags: u32) -> Outcome<()> {
    one(client, DOMAIN_UNDEFINE_FLAGS, domain.encode().word(flags), |_| Ok(()))
}

/// What a record holds, besides what the domain itself says.
#[derive(Debug)]
pub(super) struct Facts {
    pub(super) state: Result<(i32, i32), Refusal>,
    pub(super) persistent: Result<bool, Refusal>,
    pub(super) saved: Result<bool, Refusal>,
    pub(super) definition: Result<String, Refusal>,
}

/// The facts of domains, all asked for at one time.
pub(super) fn facts(client: &mut Client, domains: &[Domain], xml_flags: u32) -> Result<Vec<Facts>, Trouble> {
    const EACH: usize = 4;
    let calls: Vec<_> = domains.iter().flat_map(|domain| questions(domain, xml_flags)).collect();
    let answers = client.exchange(&calls)?;
    let (groups, _) = answers.as_chunks::<EACH>();
    groups
        .iter()
        .map(|[state, persistent, saved, definition]| {
            Ok(Facts {
                state: read(state, |decoder| Ok((decoder.int()?, decoder.int()?)))?,
                persistent: read(persistent, flag)?,
                saved: read(saved, flag)?,
                definition: read(definition, |decoder| {
                    Ok(String::from_utf8_lossy(decoder.string(STRING)?).into_owned())
                })?,
            })
        })
        .collect()
}

fn questions(domain: &Domain, xml_flags: u32) -> [Call; 4] {
    let call = |procedure, arguments: Encoder| Call { procedure, arguments: arguments.finish() };
    [
        call(DOMAIN_GET_STATE, domain.encode().word(0)),
        call(DOMAIN_IS_PERSISTENT, domain.encode()),
        call(DOMAIN_HAS_MANAGED_SAVE_IMAGE, domain.encode().word(0)),
        call(DOMAIN_GET_XML_DESC, domain.encode().word(xml_flags)),
    ]
}

fn flag(decoder: &mut Decoder<'_>) -> Result<bool, Malformed> {
    decoder.int().map(|value| value == 1)
}

/// One call by itself.
fn one<T>(
    client: &mut Client,
    procedure: i32,
    arguments: Encoder,
    result: impl FnOnce(&mut Decoder<'_>) -> Result<T, Malformed>,
) -> Outcome<T> {
    let answers = client.exchange(&[Call { procedure, arguments: arguments.finish() }])?;
    read(answers.first().ok_or(Malformed)?, result)
}

/// The values of an answer, which are all that it holds.
fn read<T>(answer: &Answer, result: impl FnOnce(&mut Decoder<'_>) -> Result<T, Malformed>) -> Outcome<T> {
    let payload = match answer {
        Ok(payload) => payload,
        Err(refusal) => return Ok(Err(refusal.clone())),
    };
    let mut decoder = Decoder::new(payload);
    let value = result(&mut decoder)?;
    decoder.end()?;
    Ok(Ok(value))
}
