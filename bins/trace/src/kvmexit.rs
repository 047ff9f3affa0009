//! `kvmexit`: why guests of KVM stop, and how long it is until they go on.

mod reasons;

use clap::{ArgMatches, Command};
use kld_core::Result;
use kld_core::tool::{Context, Tool};
use kld_ebpf::events::guest::Exit;
use kld_ebpf::events::table::Total;
use kld_ebpf::probe::KvmExit;
use serde_json::{Map, Value};

use crate::args::{flag, wanted};
use crate::histogram::Labels;
use crate::prometheus::{Counter, Metric, counters};
use crate::stream::set_flags;
use crate::tables::{self, Rows, Tables, common, greatest, timestamp};
use crate::view::View;

pub const TOOL: Tool = Tool { name: "kvmexit", about: kld_catalog::about("kvmexit"), command, run };

fn command() -> Command {
    common(Command::new("kvmexit"))
        .args([timestamp(), tables::rows(), flag("threads", 'L', "A row for each of a guest's processors too")])
        .after_help(
            "Examples:\n  kvmexit -d 10\n  kvmexit 1 -L -p 1234\n  kvmexit --machine web-5 --json 5\n\n\
             TIME(us) is from when guests have stopped to when they went on: after HLT or the like that is how long \
             they had nothing to do. The names are those of Intel's and AMD's manuals, as the kernel writes them.",
        )
}

fn run(context: &Context, matches: &ArgMatches) -> Result<()> {
    let flags = set_flags(matches, &["timestamp", "threads"]);
    let mut wanted = wanted(matches)?;
    wanted.filter.switches |= tables::switches(&flags, &[("threads", KvmExit::BY_THREAD)]);
    tables::run::<KvmExit>(context, matches, &wanted, flags)
}

fn labels(key: &Exit, view: &View) -> Labels {
    let mut labels: Labels = vec![("pid", key.pid.into())];
    if view.has("threads") {
        labels.extend([("tid", key.tid.into()), ("vcpu", key.vcpu.into())]);
    }
    labels.push(("reason", reasons::name(key.isa, key.reason).into()));
    labels
}

impl Tables for KvmExit {
    fn text(rows: &Rows<Self>, view: &View) -> String {
        let threads = view.has("threads");
        let more = if threads { format!(" {:<8} {:<4}", "TID", "VCPU") } else { String::new() };
        let mut lines =
            format!("{:<8}{more} {:<35} {:>10} {:>12}\n", "PID", "KVM_EXIT_REASON", "COUNT", "TIME(us)");
        for (key, total) in greatest(rows, view, |total| total.count) {
            let more = if threads { format!(" {:<8} {:<4}", key.tid, key.vcpu) } else { String::new() };
            lines += &format!(
                "{:<8}{more} {:<35} {:>10} {:>12}\n",
                key.pid,
                reasons::name(key.isa, key.reason),
                total.count,
                total.time / 1000
            );
        }
        lines
    }

    fn json(rows: &Rows<Self>, view: &View) -> Map<String, Value> {
        let one = |(key, total): (&Exit, &Total)| {
            let labels = labels(key, view).into_iter();
            let mut object: Map<_, _> = labels.map(|(name, value)| (name.to_string(), value)).collect();
            object.insert("count".into(), total.count.into());
            object.insert("time_s".into(), (total.time as f64 / 1e9).into());
            Value::Object(object)
        };
        let all: Vec<Value> = greatest(rows, view, |total| total.count).into_iter().map(one).collect();
        Map::from_iter([("exits".to_string(), all.into())])
    }

    fn metrics(rows: &Rows<Self>, view: &View) -> Vec<Metric> {
        const COUNT: Counter = ("kvm_exits_total", "Guests that have stopped.", |total| total.count as f64);
        const TIME: Counter = ("kvm_exits_seconds_total", "Time until stopped guests went on.", |total| {
            total.time as f64 / 1e9
        });
        counters(rows, |key| labels(key, view), &[COUNT, TIME])
    }
}

#[cfg(test)]
mod tests {
    use kld_ebpf::events::guest::SVM;

    use super::*;

    #[test]
    fn exits_are_told_with_their_reasons_the_most_frequent_first() {
        let key = |vcpu, reason| Exit { pid: 2210, tid: 2214, vcpu, isa: SVM, reason, pad: 0 };
        let total = |count, time| Total { count, amount: 0, time };
        let rows =
            Rows::<KvmExit>::from([(key(0, 0x78), total(3, 5_000_000)), (key(1, 0x7b), total(9, 70_000))]);
        let view = View::new(Vec::new(), false);
        insta::assert_snapshot!(KvmExit::text(&rows, &view), @r"
        PID      KVM_EXIT_REASON                          COUNT     TIME(us)
        2210     IOIO                                         9           70
        2210     HLT                                          3         5000
        ");
        let threads = View::new(vec!["threads"], false);
        let json = KvmExit::json(&rows, &threads);
        let first = serde_json::json!({
            "pid": 2210, "tid": 2214, "vcpu": 1, "reason": "IOIO", "count": 9, "time_s": 0.00007,
        });
        assert_eq!(json["exits"][0], first);
    }
}
