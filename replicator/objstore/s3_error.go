package objstore

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"github.com/minio/minio-go/v7"

	"github.com/pollux-dr/pollux/internal/fail"
	"github.com/pollux-dr/pollux/internal/pki"
)

// error gives a request's error its kind. Whatever is not clearly the caller's
// or the operator's to mend is fail.Retry.
func (s *s3Store) error(a *attempt, op, name string, err error) error {
	if err == nil {
		return nil
	}
	e := &fail.Error{Kind: fail.Retry, Op: op, Object: s.object(name), Err: err}
	var resp minio.ErrorResponse
	var strange *answerError
	var creds *credentialsError
	var cert *tls.CertificateVerificationError
	var unknown x509.UnknownAuthorityError
	switch cause := a.cause(); {
	case errors.As(err, &resp):
		e.Kind, e.Hint = kindOfResponse(op, resp)
		e.Err = responseText(resp)
	case cause != nil:
		e.Err = cause
	case errors.As(err, &strange):
		e.Err, e.Hint = strange, hintAnswer
	case errors.As(err, &creds):
		e.Kind, e.Hint = fail.Denied, hintCredentials
	case errors.As(err, &cert), errors.As(err, &unknown):
		e.Kind, e.Hint = fail.Invalid, pki.CauseHint(err, "name the endpoint's in its CA file")
	case strings.Contains(err.Error(), "server gave HTTP response to HTTPS client"):
		e.Kind, e.Hint = fail.Invalid, "the endpoint speaks plain HTTP: write http://"
	}
	return e
}

// responseText keeps what a support case needs: status, code and request id.
func responseText(r minio.ErrorResponse) error {
	text := fmt.Sprintf("%s (%d %s)", strings.TrimSuffix(r.Error(), "."), r.StatusCode, r.Code)
	if r.RequestID != "" {
		text += ", request " + r.RequestID
	}
	return errors.New(text)
}

func kindOfResponse(op string, r minio.ErrorResponse) (fail.Kind, string) {
	if r.Code == minio.InvalidBucketName { // which the client says too, before it asks anything
		return fail.Invalid, "correct the bucket's name"
	}
	switch r.StatusCode {
	case http.StatusPreconditionFailed:
		if op != opCreate { // which alone has a condition
			return fail.Retry, hintAnswer
		}
		return fail.Exists, ""
	case http.StatusNotFound:
		return kindOfAbsence(op, r)
	case http.StatusUnauthorized, http.StatusForbidden:
		return fail.Denied, hintOfDenial(op, r.Code)
	case http.StatusConflict:
		switch r.Code {
		case "ExistingObjectIsDirectory", "ObjectParentIsFile":
			return fail.Invalid, ""
		}
		return fail.Retry, "" // ConditionalRequestConflict: another writer is at it
	case http.StatusMovedPermanently, http.StatusTemporaryRedirect:
		if !ofStore(r) {
			return fail.Retry, hintAnswer
		}
		return fail.Invalid, "the bucket is in another region: set region and endpoint to it"
	case http.StatusNotImplemented:
		return fail.Unsupported, "the store must support conditional create (If-None-Match: *)"
	case http.StatusInsufficientStorage:
		return fail.Full, "make room in the object store"
	case http.StatusRequestTimeout, http.StatusTooManyRequests, 499:
		return fail.Retry, ""
	}
	if r.StatusCode >= 400 && r.StatusCode < 500 && ofStore(r) {
		return kindOfBadRequest(r)
	}
	return fail.Retry, ""
}

// ofStore reports whether the store itself has answered: what a proxy or some other server
// at the address says has no S3 error in it.
func ofStore(r minio.ErrorResponse) bool { return r.XMLName.Local == "Error" }

// kindOfAbsence believes only the store itself, and of what can be absent.
func kindOfAbsence(op string, r minio.ErrorResponse) (fail.Kind, string) {
	if !ofStore(r) {
		return fail.Retry, hintAnswer
	}
	switch r.Code {
	case minio.NoSuchKey:
		if op == opCreate || op == opList {
			return fail.Retry, hintAnswer
		}
		return fail.NotFound, ""
	case "ObjectLockConfigurationNotFoundError", "NoSuchObjectLockConfiguration":
		return fail.NotFound, ""
	case minio.NoSuchBucket:
		return fail.Invalid, "create the bucket, or check its name, the endpoint and the region"
	case "XAdminUserNotFound": // versitygw's InvalidAccessKeyId
		return fail.Denied, hintCredentials
	}
	return fail.Retry, ""
}

// kindOfBadRequest is for the other 4xx, above all 400, under which S3 also
// reports bytes lost or changed on the way and credentials that ran out.
func kindOfBadRequest(r minio.ErrorResponse) (fail.Kind, string) {
	switch r.Code {
	case "RequestTimeout", "BadDigest", "InvalidDigest", "XAmzContentChecksumMismatch", "IncompleteBody":
		return fail.Retry, ""
	case "ExpiredToken", "InvalidToken", "TokenRefreshRequired":
		return fail.Denied, hintCredentials
	case "InvalidRequest", "InvalidBucketObjectLockConfiguration":
		if strings.Contains(r.Message, "ObjectLock") || strings.Contains(r.Message, "Object Lock") {
			return fail.Invalid, "Object Lock is asked for (object_lock) and the bucket was not created with it: " +
				"create one that has it, or leave object_lock out"
		}
	case "AuthorizationHeaderMalformed", "InvalidRegion", "IllegalLocationConstraintException":
		return fail.Invalid, "set the region of the bucket"
	}
	return fail.Invalid, ""
}

func hintOfDenial(op, code string) string {
	switch code {
	case "InvalidAccessKeyId", "SignatureDoesNotMatch", "InvalidToken", "ExpiredToken":
		return hintCredentials
	case "RequestTimeTooSkewed":
		return "set this host's clock: it is too far from the object store's"
	}
	switch op {
	case opExtend:
		return "allow these credentials s3:PutObjectRetention"
	case opDelete:
		return "allow these credentials s3:DeleteObject, and s3:DeleteObjectVersion in a bucket with versions"
	}
	return "allow these credentials PutObject and GetObject on the objects and ListBucket on the bucket (and " +
		"PutObjectRetention where object_lock is set)"
}

// outOfRange says that the object exists and the range begins beyond its end.
func outOfRange(err error) bool {
	var resp minio.ErrorResponse
	return errors.As(err, &resp) && resp.StatusCode == http.StatusRequestedRangeNotSatisfiable && ofStore(resp)
}
