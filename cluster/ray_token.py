"""Ray's token: whoever reaches a cluster that asks for none can run code on it."""

import importlib
import logging
import os
import secrets
from pathlib import Path
from typing import Any, Final

import grpc
from ray._common.tls_utils import load_certs_from_env
from ray._private.services import canonicalize_bootstrap_address_or_die

logger = logging.getLogger(__name__)

_raylet: Any = importlib.import_module("ray._raylet")  # compiled: type checkers see nothing in it

_MODE, _TOKEN, _TOKEN_PATH = "RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"
_DEFAULT_PATH: Final = Path("~/.ray/auth_token")
_QUESTION: Final = "/ray.rpc.NodeInfoGcsService/CheckAlive"  # which every head answers, if it answers the asker
_SECONDS_TO_ANSWER: Final = 10.0
_REFUSED = (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED)
_AWAY = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)


def demand_token() -> None:
    """A cluster that this process starts asks for a token: RAY_AUTH_TOKEN_PATH's, else a secret of this run alone."""
    path = os.environ.get(_TOKEN_PATH)
    if path is None:
        # Without one Ray would write its own into the home folder, for everybody to read.
        os.environ.setdefault(_TOKEN, secrets.token_hex(32))
    elif not Path(path).is_file():
        raise ValueError(f"{_TOKEN_PATH}={path}: no such file; write Ray's token there, or unset the variable")
    _set_mode("token")
    keep_token_private()


def check_cluster(address: str, *, is_insecure: bool) -> None:
    """ValueError, in one line, unless the cluster at `address` asks for a token, and takes ours.

    `is_insecure`: one that asks for none is joined all the same, with a warning each time.
    """
    head = _head_of(address)
    refusal = _answer(head, address, token=None) in _REFUSED
    if not refusal:
        _check_open(address, is_insecure)
        return
    if is_insecure:
        logger.warning("cluster.insecure has no effect: the cluster at %s asks for a token", address)
    loader = _raylet.AuthenticationTokenLoader.instance()
    loader.reset_cache()
    if not loader.has_token(ignore_auth_mode=True):
        raise ValueError(
            f"cluster.address={address}: the cluster asks for a token, and there is none here; set {_TOKEN}, or "
            f"{_TOKEN_PATH}, or copy {_DEFAULT_PATH} from its head (`ray get-auth-token` prints it there)"
        )
    if _answer(head, address, token=loader.get_raw_token()) in _REFUSED:
        raise ValueError(
            f"cluster.address={address}: the cluster asks for another token than the one here; `ray get-auth-token` "
            f"on its head prints the right one, for {_TOKEN}"
        )
    _set_mode("token")  # of its own accord Ray sends none to an address that is written out
    keep_token_private()


def keep_token_private() -> None:
    """Take the token's file away from other users: Ray writes it for everybody to read."""
    if _TOKEN in os.environ:
        return
    path = Path(os.environ.get(_TOKEN_PATH, _DEFAULT_PATH)).expanduser()
    if not path.is_file() or not path.stat().st_mode & 0o077:
        return
    try:
        path.chmod(0o600)
        logger.warning("%s: Ray's token could be read by other users; its mode is 0600 now", path)
    except OSError as error:
        logger.warning("%s: Ray's token can be read by other users, and stays so (%s)", path, error.strerror)


def _check_open(address: str, is_insecure: bool) -> None:
    """The cluster asks for no token. Ours, if there is one, is not for it."""
    if not is_insecure:
        raise ValueError(
            f"cluster.address={address}: the cluster asks for no token, so whoever reaches it can run code on it; "
            f"start it with {_MODE}=token, or join it all the same with --insecure-cluster (cluster.insecure=true)"
        )
    logger.warning("INSECURE: the Ray cluster at %s asks for no token; whoever reaches it can run code on it", address)
    _set_mode("disabled")


def _set_mode(mode: str) -> None:
    """For this process and those it starts. Ray read the environment when it was imported, and reads it again here."""
    os.environ[_MODE] = mode
    _raylet.Config.initialize("")


def _head_of(address: str) -> str:
    """HOST:PORT of the head."""
    try:
        return canonicalize_bootstrap_address_or_die(address)
    except ConnectionError as error:
        raise _absent(address, str(error)) from None
    except (ValueError, OSError) as error:
        raise ValueError(
            f"cluster.address={address}: want HOST:PORT of the cluster's head, or auto ({error})"
        ) from None


def _answer(head: str, address: str, token: str | None) -> grpc.StatusCode:
    """How the head answers one who bears this token, or none. ValueError when it doesn't answer at all."""
    metadata = () if token is None else (("authorization", f"Bearer {token}"),)
    with _channel(head) as channel:
        try:
            channel.unary_unary(_QUESTION)(b"", timeout=_SECONDS_TO_ANSWER, metadata=metadata)
        except grpc.RpcError as error:
            code = error.code()  # pyright: ignore[reportAttributeAccessIssue]
            if code in _AWAY:
                raise _absent(address, error.details()) from None  # pyright: ignore[reportAttributeAccessIssue]
            return code
    return grpc.StatusCode.OK


def _channel(head: str) -> grpc.Channel:
    options = [("grpc.enable_http_proxy", 0)]
    if os.environ.get("RAY_USE_TLS", "0").lower() not in ("1", "true"):
        return grpc.insecure_channel(head, options)
    chain, key, root = load_certs_from_env()
    return grpc.secure_channel(head, grpc.ssl_channel_credentials(root, key, chain), options)


def _absent(address: str, reason: str | None) -> ValueError:
    return ValueError(
        f"cluster.address={address}: no Ray cluster answers there ({reason}); "
        "start one with `RAY_AUTH_MODE=token ray start --head`, or leave cluster.address out to use this machine"
    )
