//! A network namespace with a veth pair, for probes that need an interface. Both are gone when the probe is over, even
//! if the process is killed in between: the namespace has no name and belongs to one thread.

use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd};

use futures_util::{StreamExt as _, TryStreamExt as _};
use rtnetlink::packet_core::{
    DefaultNla, NLM_F_ACK, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload, Nla as _,
    NlasIterator,
};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::tc::{
    TcAttribute, TcBpfFlags, TcFilterBpfOption, TcHandle, TcHeader, TcMessage, TcOption,
};
use rtnetlink::{Handle, LinkUnspec, LinkVeth};
use tokio::runtime::Runtime;

use super::run::Trouble;
use crate::sys;

/// `TCA_OPTIONS`, for a queueing discipline whose options are a plain struct.
const TCA_OPTIONS: u16 = 2;
/// `ETH_P_ALL` in network byte order and priority 1, as `tcm_info` holds them.
const ALL_PROTOCOLS: u32 = 1 << 16 | (0x0003_u16.to_be() as u32);

/// One end of a veth pair in a namespace of its own.
pub struct Veth {
    /// Number of the interface.
    pub ifindex: u32,
    runtime: Runtime,
    handle: Handle,
}

impl Veth {
    /// Runs `probe` beside a fresh pair, on a thread that ends with it.
    ///
    /// # Errors
    /// What `probe` returns, or what kept the namespace or the pair from being made.
    pub fn with<T: Send>(probe: impl FnOnce(&Self) -> Result<T, Trouble> + Send) -> Result<T, Trouble> {
        let probing = || {
            sys::unshare_network().map_err(|source| Trouble::setup("make a network namespace", source))?;
            let veth = Self::new().map_err(|source| Trouble::setup("make a veth pair", source))?;
            probe(&veth)
        };
        let ended = std::thread::scope(|scope| scope.spawn(probing).join());
        ended.unwrap_or_else(|_| Err(Trouble::setup("finish the probe", io::Error::other("it panicked"))))
    }

    fn new() -> io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
        let handle = {
            let _entered = runtime.enter();
            let (connection, handle, _) = rtnetlink::new_connection()?;
            runtime.spawn(connection);
            handle
        };
        let links = handle.link();
        let ifindex = runtime.block_on(async {
            links.add(LinkVeth::new("probe", "peer").build()).execute().await?;
            let mut found = links.get().match_name("probe".to_owned()).execute();
            let index = found.try_next().await?.map_or(0, |link| link.header.index);
            links.set(LinkUnspec::new_with_index(index).up().build()).execute().await?;
            Ok(index)
        });
        let ifindex = ifindex.map_err(to_io)?;
        Ok(Self { ifindex, runtime, handle })
    }

    /// Adds the queueing discipline `clsact`, and `program` to its ingress.
    ///
    /// # Errors
    /// The kernel's.
    pub fn filter_ingress(&self, program: BorrowedFd<'_>) -> Result<(), Trouble> {
        let mut clsact = self.message(TcHandle { major: 0xffff, minor: 0 }, TcHandle::CLSACT, 0);
        clsact.attributes.push(TcAttribute::Kind("clsact".to_owned()));
        self.send(RouteNetlinkMessage::NewQueueDiscipline(clsact))
            .map_err(|source| Trouble::new("add the queueing discipline clsact", source))?;
        let ingress = TcHandle { major: 0xffff, minor: TcHandle::MIN_INGRESS };
        let mut filter = self.message(TcHandle::UNSPEC, ingress, ALL_PROTOCOLS);
        filter.attributes.extend([
            TcAttribute::Kind("bpf".to_owned()),
            TcAttribute::Options(vec![
                TcOption::Bpf(TcFilterBpfOption::ProgFd(program.as_raw_fd().cast_unsigned())),
                TcOption::Bpf(TcFilterBpfOption::ProgName("probe".to_owned())),
                TcOption::Bpf(TcFilterBpfOption::Flags(TcBpfFlags::DirectAction)),
            ]),
        ]);
        self.send(RouteNetlinkMessage::NewTrafficFilter(filter))
            .map_err(|source| Trouble::new("add a BPF filter to clsact", source))
    }

    /// Adds the queueing discipline `netem` with a limit of 1000 packets and no other effect.
    ///
    /// # Errors
    /// The kernel's: `ENOENT` where it does not have it.
    pub fn add_netem(&self) -> Result<(), Trouble> {
        // `struct tc_netem_qopt`: latency, limit, loss, gap, duplicate, jitter.
        let options = [0_u32, 1000, 0, 0, 0, 0].iter().flat_map(|word| word.to_ne_bytes()).collect();
        self.add_discipline("netem", options)
    }

    /// Whether the `netem` that was added tells the seed by which it decides.
    ///
    /// # Errors
    /// The kernel's.
    pub fn netem_has_seed(&self) -> Result<bool, Trouble> {
        /// `TCA_NETEM_PRNG_SEED`.
        const SEED: u16 = 14;
        let request = self.handle.qdisc().get().index(self.ifindex.cast_signed()).execute();
        let found: Result<Vec<TcMessage>, _> = self.runtime.block_on(request.try_collect());
        let found = found.map_err(to_io).map_err(|source| Trouble::new("list queueing disciplines", source))?;
        let options = found.iter().flat_map(|message| &message.attributes).find_map(|attribute| match attribute {
            TcAttribute::Options(options) => options.iter().find_map(|option| match option {
                TcOption::Other(raw) => Some(raw),
                _ => None,
            }),
            _ => None,
        });
        let mut bytes = vec![0; options.map_or(0, DefaultNla::value_len)];
        options.inspect(|raw| raw.emit_value(&mut bytes));
        // Attributes follow the fixed options of 24 bytes.
        let mut attributes = NlasIterator::new(bytes.get(24..).unwrap_or_default());
        Ok(attributes.any(|attribute| attribute.is_ok_and(|attribute| attribute.kind() == SEED)))
    }

    /// Adds the queueing discipline `tbf` with a rate.
    ///
    /// # Errors
    /// The kernel's: `ENOENT` where it does not have it.
    pub fn add_tbf(&self) -> Result<(), Trouble> {
        // `TCA_TBF_PARMS` with a `struct tc_tbf_qopt`: a rate on Ethernet (`TC_LINKLAYER_ETHERNET`, for which the kernel
        // needs no table), no peak rate, a limit of 1000 bytes, a bucket of 2^20 ticks.
        let words = [u32::from_ne_bytes([0, 1, 0, 0]), 0, 1000, 0, 0, 0, 1000, 1 << 20, 0];
        let mut options = [40_u16, 1].map(u16::to_ne_bytes).concat();
        options.extend(words.iter().flat_map(|word| word.to_ne_bytes()));
        self.add_discipline("tbf", options)
    }

    fn add_discipline(&self, kind: &str, options: Vec<u8>) -> Result<(), Trouble> {
        let mut message = self.message(TcHandle { major: 1, minor: 0 }, TcHandle::ROOT, 0);
        message.attributes.push(TcAttribute::Kind(kind.to_owned()));
        message.attributes.push(TcAttribute::Other(DefaultNla::new(TCA_OPTIONS, options)));
        self.send(RouteNetlinkMessage::NewQueueDiscipline(message))
            .map_err(|source| Trouble::new(format!("add the queueing discipline {kind}"), source))
    }

    fn message(&self, handle: TcHandle, parent: TcHandle, info: u32) -> TcMessage {
        let index = self.ifindex.cast_signed();
        TcMessage::from_parts(TcHeader { index, handle, parent, info, ..TcHeader::default() }, Vec::new())
    }

    fn send(&self, message: RouteNetlinkMessage) -> io::Result<()> {
        let mut request = NetlinkMessage::from(message);
        request.header.flags = NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL;
        let mut handle = self.handle.clone();
        self.runtime.block_on(async move {
            let mut answers = handle.request(request).map_err(to_io)?;
            while let Some(answer) = answers.next().await {
                if let NetlinkPayload::Error(error) = answer.payload
                    && error.code.is_some()
                {
                    return Err(error.to_io());
                }
            }
            Ok(())
        })
    }
}

fn to_io(error: rtnetlink::Error) -> io::Error {
    match error {
        rtnetlink::Error::NetlinkError(error) => error.to_io(),
        other => io::Error::other(other),
    }
}
