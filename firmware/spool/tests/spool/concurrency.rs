//! Many sessions and many deliveries at once.

use crate::lab::*;
use jiff::Timestamp;
use mail::Destination;
use std::{collections::HashMap, sync::Arc, sync::Mutex, time::Duration};

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn many_sessions_share_syncs_and_every_message_is_delivered_once() {
    let folder = tempfile::tempdir().unwrap();
    let (spool, _) = open(folder.path());
    let sent = Arc::new(Mutex::new(HashMap::new()));
    let mut deliveries = tokio::task::JoinSet::new();
    for _ in 0..6 {
        let (spool, sent) = (spool.clone(), Arc::clone(&sent));
        deliveries.spawn(async move {
            loop {
                while let Some(claim) = spool.claim(Timestamp::now()) {
                    assert!(sent_body(&claim).starts_with(claim.message().to_string().as_bytes()));
                    *sent.lock().unwrap().entry((claim.message(), claim.delivery())).or_insert(0) += 1;
                    let settlement = delivered(&claim);
                    spool.settle(claim, settlement).await.unwrap();
                }
                if tokio::time::timeout(Duration::from_millis(1500), spool.due()).await.is_err() {
                    return;
                }
            }
        });
    }
    let mut sessions = tokio::task::JoinSet::new();
    for _ in 0..48 {
        let spool = spool.clone();
        sessions.spawn(async move {
            let mut ids = Vec::new();
            for n in 0..20 {
                let plan = vec![to(Destination::Smarthost, &[0]), to(Destination::Cloud, &[1])];
                ids.push(accept(&spool, 200 + n * 500, plan).await.message());
            }
            ids
        });
    }
    let ids: Vec<_> = sessions.join_all().await.concat();
    deliveries.join_all().await;
    let sent = sent.lock().unwrap().clone();
    assert_eq!(sent.len(), 48 * 20 * 2);
    assert!(sent.values().all(|times| *times == 1));
    assert!(ids.iter().all(|id| sent.contains_key(&(*id, 0)) && sent.contains_key(&(*id, 1))));
    let stats = spool.stats();
    assert_eq!((stats.messages, stats.accepted, stats.finished), (0, 960, 960));
    // 960 receipts and 1,920 facts; one sync each would be 2,880.
    assert!(stats.syncs < 1500, "{} syncs", stats.syncs);
    spool.close().await;
}
