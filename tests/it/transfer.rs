//! Export and import.

use std::collections::BTreeMap;

use steadfast::proto;
use tonic::{Code, Status};

use crate::support::*;

async fn export(
    client: &mut Client,
    site: &str,
    token: &str,
) -> Result<Vec<proto::ExportProfilesResponse>, Status> {
    let request = proto::ExportProfilesRequest { site: site.into(), resume_token: token.into() };
    let mut pages = client.export_profiles(request).await?.into_inner();
    let mut all = Vec::new();
    while let Some(page) = pages.message().await? {
        all.push(page);
    }
    Ok(all)
}

fn by_user(pages: Vec<proto::ExportProfilesResponse>) -> BTreeMap<String, proto::Profile> {
    let mut users = BTreeMap::new();
    for profile in pages.into_iter().flat_map(|page| page.profiles) {
        assert_eq!(users.insert(profile.user.clone(), profile), None, "exported twice");
    }
    users
}

async fn import(
    client: &mut Client,
    batches: Vec<proto::ImportProfilesRequest>,
) -> Result<Vec<proto::ImportProfilesResponse>, Status> {
    let mut answers = client.import_profiles(tokio_stream::iter(batches)).await?.into_inner();
    let mut all = Vec::new();
    while let Some(answer) = answers.message().await? {
        all.push(answer);
    }
    Ok(all)
}

fn record(number: u64, profile: &proto::Profile) -> proto::ImportRecord {
    proto::ImportRecord {
        number,
        user: profile.user.clone(),
        attributes: profile.attributes.clone(),
        attribute_occurred_at: profile.occurred_at.clone(),
        occurred_at: None,
    }
}

#[tokio::test]
async fn what_is_exported_can_be_imported() {
    const USERS: u32 = 100;
    let home = Home::new();
    let server = home.start();
    let mut client = server.client().await;
    for n in 0..USERS {
        let user = format!("ünï 🦀 {n}");
        let mut request = set(
            &user,
            [
                ("plan", text(if n % 2 == 0 { "" } else { "ß\u{0}\n\"🦀" })),
                ("seats", number(f64::from(n) / 7.0)),
                ("tiny", number(f64::MIN_POSITIVE)),
                ("zero", number(-0.0)),
                ("trial", truth(n % 3 == 0)),
                ("at", time(-62_135_596_800 + i64::from(n), 999_999_999)),
                ("tags", list(&["", "b", "b"])),
                ("none", list(&[])),
            ],
        );
        request.occurred_at = Some(timestamp(1_586_476_800 + i64::from(n), 5));
        applied(&mut client, request).await;
        applied(&mut client, add(&user, "visits", f64::from(n))).await;
    }
    // Neighbours in the store's order, and one that was deleted.
    for site in ["acmd", "acme2", "acm"] {
        applied(&mut client, proto::IdentifyRequest { site: site.into(), ..add("u", "n", 1.0) }).await;
    }
    applied(&mut client, add("gone", "n", 1.0)).await;
    client.delete_profile(delete("gone")).await.unwrap();

    let pages = export(&mut client, SITE, "").await.unwrap();
    assert!(pages.len() > 2);
    let half: Vec<_> = pages[..2].to_vec();
    let rest = export(&mut client, SITE, &half[1].resume_token).await.unwrap();
    let exported = by_user(pages);
    assert_eq!(exported.len(), USERS as usize);
    assert_eq!(by_user([half, rest].concat()), exported);

    let records: Vec<_> =
        exported.values().zip(1..).map(|(profile, number)| record(number, profile)).collect();
    let mut batches: Vec<_> = records
        .chunks(30)
        .map(|records| proto::ImportProfilesRequest {
            site: String::new(),
            resume_token: format!("after {}", records.last().unwrap().number),
            records: records.to_vec(),
        })
        .collect();
    batches[0].site = "copy".into();
    let tokens: Vec<String> = batches.iter().map(|batch| batch.resume_token.clone()).collect();
    let answers = import(&mut client, batches.clone()).await.unwrap();
    assert_eq!(answers.iter().map(|answer| answer.resume_token.clone()).collect::<Vec<_>>(), tokens);
    assert_eq!(answers.iter().map(|answer| answer.kept).sum::<u32>(), USERS);

    let check = |copies: BTreeMap<String, proto::Profile>| {
        assert_eq!(copies.len(), exported.len());
        for (user, copy) in copies {
            let original = &exported[&user];
            assert_eq!((&copy.attributes, &copy.occurred_at), (&original.attributes, &original.occurred_at));
        }
    };
    // Applied, not only accepted: the last of the records is, when a later write of its user is.
    applied(&mut client, proto::IdentifyRequest { site: "copy".into(), ..add(&records[99].user, "x", 1.0) })
        .await;
    let mut copies = by_user(export(&mut client, "copy", "").await.unwrap());
    let last = copies.get_mut(&records[99].user).unwrap();
    last.attributes.remove("x");
    last.occurred_at.remove("x");
    check(copies);
    // Once more: it changes nothing.
    import(&mut client, batches).await.unwrap();
    let version = get(&mut client, "copy", &records[0].user).await.unwrap().version;
    assert_eq!(version, 1);
}

#[tokio::test]
async fn bad_records_are_reported_one_by_one() {
    let home = Home::new();
    let server = home.start();
    let mut client = server.client().await;
    let good = proto::ImportRecord {
        number: 1,
        user: "u".into(),
        attributes: set("u", [("n", number(1.0))]).attributes,
        ..Default::default()
    };
    let attributes = |value| set("u", [("n", value)]).attributes;
    let stray = [("m".to_owned(), timestamp(1_586_476_800, 0))].into();
    let early = [("n".to_owned(), timestamp(0, 0))].into();
    let records = vec![
        good.clone(),
        proto::ImportRecord { number: 2, user: "nil".into(), ..good.clone() },
        proto::ImportRecord { number: 3, attributes: attributes(text("1")), ..good.clone() },
        proto::ImportRecord { number: 4, attributes: attributes(number(f64::NAN)), ..good.clone() },
        proto::ImportRecord { number: 5, attribute_occurred_at: stray, ..good.clone() },
        proto::ImportRecord { number: 6, attribute_occurred_at: early, ..good.clone() },
        proto::ImportRecord { number: 7, attributes: BTreeMap::new(), ..good.clone() },
        proto::ImportRecord { number: 8, ..good.clone() },
    ];
    let batch = proto::ImportProfilesRequest { site: SITE.into(), resume_token: "t".into(), records };
    let answers = import(&mut client, vec![batch.clone()]).await.unwrap();
    assert_eq!((answers.len(), answers[0].kept), (1, 2));
    let errors: Vec<_> = answers[0]
        .errors
        .iter()
        .map(|error| {
            let told = error.error.as_ref().unwrap();
            assert_eq!(told.metadata["kept"], "no");
            (error.number, told.reason.as_str(), told.field.as_str())
        })
        .collect();
    assert_eq!(
        errors,
        [
            (2, "INVALID_FIELD", "user"),
            (3, "TYPE_MISMATCH", "attributes[\"n\"]"),
            (4, "INVALID_FIELD", "attributes[\"n\"].number_value"),
            (5, "INVALID_FIELD", "attribute_occurred_at[\"m\"]"),
            (6, "INVALID_FIELD", "attribute_occurred_at[\"n\"]"),
            (7, "INVALID_FIELD", "attributes"),
        ]
    );

    let spoilt = [
        proto::ImportProfilesRequest { site: String::new(), ..batch.clone() },
        proto::ImportProfilesRequest { records: Vec::new(), ..batch.clone() },
        proto::ImportProfilesRequest { records: vec![good.clone(); 1001], ..batch.clone() },
        proto::ImportProfilesRequest { resume_token: "t".repeat(257), ..batch.clone() },
    ];
    for batch in spoilt {
        let status = import(&mut client, vec![batch]).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
        info(&status);
    }
    let other = proto::ImportProfilesRequest { site: "other".into(), ..batch.clone() };
    assert_eq!(reason(&import(&mut client, vec![batch, other]).await.unwrap_err()), "INVALID_FIELD");

    assert_eq!(
        export(&mut client, "nobody", "")
            .await
            .unwrap()
            .iter()
            .map(|page| page.profiles.len())
            .sum::<usize>(),
        0
    );
    for token in ["zz", "0", "ff", "00", "abcdef"] {
        let status = export(&mut client, SITE, token).await.expect_err(token);
        assert_eq!((status.code(), reason(&status).as_str()), (Code::InvalidArgument, "INVALID_FIELD"));
    }
}
