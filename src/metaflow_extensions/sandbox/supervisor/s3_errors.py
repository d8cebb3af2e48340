"""What an error of boto3 means for whoever started the run, and what mends it."""

from __future__ import annotations

from .s3_policy import split

# What each error code of S3 and STS means here; {bucket}, {endpoint} and {whose} are filled in.
CODES = {
    "NoSuchBucket": "there is no bucket {bucket!r} at {endpoint}: look at METAFLOW_DATASTORE_SYSROOT_S3",
    "InvalidBucketName": "{bucket!r} is no bucket's name: look at METAFLOW_DATASTORE_SYSROOT_S3",
    "AccessDenied": "{whose} may not list the bucket {bucket!r} (403): they need s3:ListBucket on it, and "
    "s3:GetObject and s3:PutObject on what is in it",
    "InvalidAccessKeyId": "{whose} are not known at {endpoint} (403): a wrong key, or another provider's",
    "SignatureDoesNotMatch": "the secret key of {whose} is wrong (403)",
    "ExpiredToken": "{whose} have expired: log in again ('aws sso login'), and start the run again",
    "TokenRefreshRequired": "{whose} have expired: log in again, and start the run again",
    "InvalidToken": "the session token of {whose} is not one of {endpoint}: unset AWS_SESSION_TOKEN",
    "RequestTimeTooSkewed": "this machine's clock differs too much from that of {endpoint}: set the clock, "
    "such as with 'timedatectl set-ntp true'",
    "PermanentRedirect": "the bucket {bucket!r} is in another region: set AWS_DEFAULT_REGION to it",
}
# What HTTP alone says, where an answer has no code of its own.
STATUSES = {"403": "AccessDenied", "404": "NoSuchBucket", "301": "PermanentRedirect"}
OTHER_CODES = {
    "AuthorizationHeaderMalformed": "PermanentRedirect",
    "IllegalLocationConstraintException": "PermanentRedirect",
    "RequestExpired": "RequestTimeTooSkewed",
    "ExpiredTokenException": "ExpiredToken",
}


def explain(error: Exception, root: str, endpoint: str, whose: str) -> str:
    """An error of botocore as one message that names what mends it; ``root`` is s3://bucket/prefix."""
    bucket = split(root)[0]
    response = getattr(error, "response", None) or {}
    code = str(response.get("Error", {}).get("Code", ""))
    code = STATUSES.get(code, OTHER_CODES.get(code, code))
    if code in CODES:
        reason = CODES[code].format(bucket=bucket, endpoint=endpoint, whose=whose)
    else:
        reason = by_class(type(error).__name__, endpoint, whose)
    return f"the datastore {root} cannot be used: {reason} ({type(error).__name__}: {str(error)[:300]})"


def by_class(name: str, endpoint: str, whose: str) -> str:
    """What an error that came from no answer means, by the name of its class."""
    if name in ("NoCredentialsError", "PartialCredentialsError", "CredentialRetrievalError"):
        return (
            "there are no credentials for it: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE"
        )
    if name in ("SSOTokenLoadError", "UnauthorizedSSOTokenError", "TokenRetrievalError", "SSOError"):
        return f"{whose} have expired: log in again with 'aws sso login', and start the run again"
    if name in (
        "EndpointConnectionError",
        "ConnectTimeoutError",
        "ReadTimeoutError",
        "ConnectionClosedError",
    ):
        return (
            f"nothing that speaks S3 answers at {endpoint}: look at METAFLOW_S3_ENDPOINT_URL and the network"
        )
    if name == "SSLError":
        return (
            f"the certificate of {endpoint} is not trusted: METAFLOW_S3_VERIFY_CERTIFICATE names the file of "
            "its authority"
        )
    if name in ("ResponseParserError", "ProxyConnectionError", "HTTPClientError"):
        return f"what answers at {endpoint} does not speak S3: look at METAFLOW_S3_ENDPOINT_URL"
    if name in ("ParamValidationError", "InvalidEndpointConfigurationError", "NoRegionError"):
        return (
            "the bucket's name, region or endpoint is not a possible one: look at "
            "METAFLOW_DATASTORE_SYSROOT_S3"
        )
    return f"{endpoint} refused to list it"
