"""The ports a scan connects to, and those it never touches."""

from __future__ import annotations

MEDICAL: dict[int, str] = {
    104: "dicom", 2575: "hl7", 2761: "dicom-iscl", 2762: "dicom-tls", 4242: "dicom", 8042: "orthanc",
    11112: "dicom", 11113: "dicom", 11114: "dicom", 11115: "dicom",
}
"""Ports of medical equipment. They come first; one that is open ends the scan of that host. Nothing is sent to them."""

COMMON: dict[int, str] = {
    21: "ftp", 22: "ssh", 23: "telnet", 25: "smtp", 53: "dns", 80: "http", 88: "kerberos", 135: "msrpc",
    139: "netbios-ssn", 389: "ldap", 443: "https", 445: "smb", 548: "afp", 554: "rtsp", 631: "ipp", 636: "ldaps",
    1433: "mssql", 1883: "mqtt", 3306: "mysql", 3389: "rdp", 5000: "upnp", 5060: "sip", 5432: "postgresql",
    5900: "vnc", 5985: "winrm", 8008: "http-alt", 8080: "http-proxy", 8443: "https-alt", 37777: "dahua",
    62078: "iphone-sync",
}

# Whatever arrives on these ports may be printed, and some print servers eject a page or hold up their queue for a bare
# connection too. What a connect could teach is not worth a sheet of paper every night: printers are recognised by
# their announcements (mDNS, SSDP, WS-Discovery), their vendor and the IPP port, so these are not even connected to.
NEVER = frozenset({515, *range(9100, 9108)})

HTTP = (80, 8080, 8008)
HTTPS = (443, 8443)
SSH = 22

EARLY = frozenset({631, SSH, *HTTP, *HTTPS})
"""Ports to know before a host is asked anything: the one that gives a printer away, and those that can be asked."""

CURATED: dict[int, str] = {**MEDICAL, **COMMON}
"""Forty ports. nmap's thousand most frequent ones contain none of the first ten."""


def name(port: int) -> str:
    """The service usually found on a TCP port, or an empty string."""
    return CURATED.get(port, "")
