//! The digests of ordinary bodies, pinned: a release with another digest would refuse every retry that spans the deploy.

use idem_core::Fingerprint;

/// Bodies of every kind that a client sends, each with the digest that the first release gives it.
const PINNED: [(&str, &str); 22] = [
    ("", "014abd58d75b4b965924ed0985ce837e30e0c8cf5407f0e528d16215520d257f74"),
    ("null", "01fc3421a310f0d4190a7b57c0de0bd62188ff4053a7eee9a530821187e911e950"),
    ("true", "01417222b244e163de40b447b340867d4301e04e5717c3dbdd183f4d0c703a32be"),
    (" false\n", "01f611f2a773b8fa0f1e385fa120f90ecd084d6ba2cafff4fb482bd358182a304b"),
    ("0", "013c415820c61c6ec822350bb0ae53795466b1bba50608611d192c5f903b8feb93"),
    ("-0.0150e+2", "01005a1dd12998f6c855726fbadbc615d3f6ee79b1783a706e8caff3ea6feba5c5"),
    ("9007199254740993", "014eb882cdac6a6e473840bb100967bedafd9a4583760c97802dc070cdbbf09022"),
    (
        "1e99999999999999999999999999999999999999999",
        "01901d30cae502e74468439c3785ef8f233fc74e7ab9c076e119ef94d552cc8181",
    ),
    (r#""""#, "01c0e42f28f564770773a91fd3759a27474175aac5b453390cf924628d36e466f6"),
    (r#""aé😀/""#, "0165fa99993e026c244ba58b8a96cb535076aa1cb378f6057d040cf22597e4017e"),
    (
        r#""\u0061\u00e9\ud83d\ude00\/\b\f\n\r\t\"\\""#,
        "018c4f1b014dd1dd1cf6f664625fc5a8f7132cd18a70f07c1792f6881ab8a82be6",
    ),
    ("[]", "010018afff0ed4c5852cac26e82985f1538f1343f4c3f01465bb18506404ebd471"),
    ("{}", "017d047ba0fda54c3d8e5262510521214ae9e52c9f79247c6a7b2248c253a1fd19"),
    (r#"[1,"a",null,true,[2.50,{"x":[]}]]"#, "013a876738c1fcca5bf3add9ee23075adbc8c9d1f5217315368ad9b7dd7b75e56d"),
    (
        r#"{"customer_id":"c1","amount":100,"currency":"USD"}"#,
        "01b776d8c71ceee7151897e987cd244e2cca13a9a4c94d579cfdda4702f9409499",
    ),
    (
        "{ \"currency\" : \"USD\",\r\n\t\"amount\" : 1.0e2, \"customer_id\" : \"c1\" }",
        "01b776d8c71ceee7151897e987cd244e2cca13a9a4c94d579cfdda4702f9409499",
    ),
    (
        r#"{"b":{"d":1,"c":[{"z":0,"y":-1.50}]},"a":{},"":"","\u0061b":0.000}"#,
        "01aa0330bfab8051fd6d74726c64dc567638e784522c8c290977cb7534c67be42b",
    ),
    (r#"{"a":1,"a":2}"#, "01b84b50838adb8eb8b08d31a0ed0493960faad0b5e9db778b17d515c00ad9196f"),
    (r#"{"a":1,"\u0061":2}"#, "01b0584fe19e2234dd423e71567b3be03ced33f37668578414c6ba771abd98da29"),
    (r#"[{"a":1,"a":1}]"#, "01caee7b07ea2bba3384157b90b879e04272c562118836ef2c5d016c547e026bc3"),
    ("{not json", "01e08671c20d5bc83bcaac00d3167a9d50d111471201fd4f9a0c1abeea3f3d5da6"),
    ("\"\\ud800\"", "015126d693244162b0959bf7915e8281b2aecf775f808a7264c2d351000ef35ee6"),
];

fn digest(body: &str) -> String {
    let asked = Fingerprint::of_request("POST", "/p", None, b"application/json", body.as_bytes());
    asked.as_bytes().iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn r05_the_digest_of_an_ordinary_body_does_not_change() {
    for (body, pinned) in PINNED {
        assert_eq!(digest(body), pinned, "{body}");
    }
}

/// An order of a shop: names of all lengths, escapes, numbers in several forms, nested and long.
fn order(lines: usize) -> String {
    let line = |at: usize| {
        let quantity = at % 7 + 1;
        format!(
            "{{\"sku\":\"sku-{at}\",\"quantity\":{quantity},\"price\":{{\"amount\":{at}.{:02},\"currency\":\"EUR\"}},\
             \"note\":\"line\\t{at} \\u00fc\\ud83d\\ude00\",\"tags\":[null,true,{at}e-{quantity},[],{{}}]}}",
            at % 100
        )
    };
    let lines: Vec<_> = (0..lines).map(line).collect();
    format!("{{\"lines\": [\n  {}\n], \"customer\": \"c1\"}}", lines.join(",\n  "))
}

#[test]
fn r05_the_digest_of_a_long_body_does_not_change() {
    assert_eq!(digest(&order(10)), "014c45c0ca3b278922b40210e5dff67c3c10848a2b05622ad8d184751a613ca442");
    assert_eq!(digest(&order(10_000)), "01f67ce84bb219315abb30d0c2eeed983a97eb24dd64fc4ddeee5d377e3117557d");
    let deep = format!("{}1{}", "[{\"a\":".repeat(60), "}]".repeat(60));
    assert_eq!(digest(&deep), "01144bef0ccf0207807f68b4d23bc7557b280db87a69bfffed4e2be52ebbd7cdf5");
}
