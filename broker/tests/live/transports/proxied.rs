//! Behind a load balancer that speaks the PROXY protocol.

use super::*;

fn proxied(trusted: Option<Vec<listener::config::Network>>) -> Config {
    Config {
        listeners: vec![listener::Config {
            proxy_protocol: Some(ProxyProtocol { trusted }),
            ..tcp("behind")
        }],
        ..config()
    }
}

/// A header of version 2 for TCP over IPv4 from 192.0.2.7:4242, with an extension.
fn proxy_v2(command: u8) -> Vec<u8> {
    let mut header = b"\r\n\r\n\0\r\nQUIT\n".to_vec();
    header.extend([0x20 | command, 0x11, 0, 12 + 4]);
    header.extend([192, 0, 2, 7, 127, 0, 0, 1, 0x10, 0x92, 0x07, 0x5B]);
    header.extend([0x04, 0, 1, 0]);
    header
}

#[tokio::test]
async fn behind_a_load_balancer_the_client_s_address_is_the_one_it_says() {
    let (broker, at) = run(proxied(Some(vec!["127.0.0.0/8".parse().unwrap()]))).await;
    let v1 = b"PROXY TCP6 2001:db8::7 ::1 4242 1883\r\n".to_vec();
    let local = proxy_v2(0);
    for (header, expect) in [
        (proxy_v2(1), Some("192.0.2.7:4242")),
        (v1, Some("[2001:db8::7]:4242")),
        (local, None),
    ] {
        let mut stream = TcpStream::connect(address(&at)).await.unwrap();
        let own = stream.local_addr().unwrap();
        // Together with what follows, in one segment.
        let bytes = [&header[..], &connect_v4("p", 2, 0)].concat();
        stream.write_all(&bytes).await.unwrap();
        let mut answer = [0; 4];
        stream.read_exact(&mut answer).await.unwrap();
        still_works(&mut stream, "p").await.unwrap();
        let expect = expect.map_or(own, |text| text.parse().unwrap());
        assert_eq!(
            broker.gateway.publishers().last().unwrap().address,
            Some(expect)
        );
    }
    broker.stop().await;
}

#[tokio::test]
async fn without_a_header_or_from_elsewhere_nobody_comes_in() {
    let (broker, at) = run(proxied(None)).await;
    let mut too_long = b"PROXY TCP4 ".to_vec();
    too_long.resize(200, b'1');
    for (before, bytes) in [
        connect_v4("no header at all", 2, 0),
        too_long,
        b"PROXY TCP4 1.2.3.4 nonsense 1 2\r\n".to_vec(),
        b"\r\n\r\n\0\r\nQUIT\n\x21\x11\xff\xff".to_vec(),
    ]
    .into_iter()
    .enumerate()
    {
        let mut stream = TcpStream::connect(address(&at)).await.unwrap();
        stream.write_all(&bytes).await.unwrap();
        broker
            .until("refused", |now| now.proxy_refused == before as u64 + 1)
            .await;
    }
    broker.stop().await;

    let (broker, at) = run(proxied(Some(vec!["10.0.0.0/8".parse().unwrap()]))).await;
    let mut stream = TcpStream::connect(address(&at)).await.unwrap();
    stream.write_all(&proxy_v2(1)).await.unwrap();
    broker.until("refused", |now| now.proxy_refused == 1).await;
    broker.stop().await;
}
