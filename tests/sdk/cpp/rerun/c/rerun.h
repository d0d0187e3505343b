// What the tests use of Rerun's C API, declared after its implementation (crate rerun_c): the crate has no header.
// With the C++ SDK installed, its own <rerun/c/rerun.h> takes this one's place.
#ifndef RERUN_H
#define RERUN_H

#include <cstdint>

extern "C" {
/// The Arrow C data interface: https://arrow.apache.org/docs/format/CDataInterface.html
struct ArrowSchema {
    const char* format;
    const char* name;
    const char* metadata;
    int64_t flags;
    int64_t n_children;
    struct ArrowSchema** children;
    struct ArrowSchema* dictionary;
    void (*release)(struct ArrowSchema*);
    void* private_data;
};

struct ArrowArray {
    int64_t length;
    int64_t null_count;
    int64_t offset;
    int64_t n_buffers;
    int64_t n_children;
    const void** buffers;
    struct ArrowArray** children;
    struct ArrowArray* dictionary;
    void (*release)(struct ArrowArray*);
    void* private_data;
};

struct rr_string {
    const char* utf8;
    uint32_t length_in_bytes;
};

typedef uint32_t rr_recording_stream;
typedef uint32_t rr_component_type_handle;

struct rr_store_info {
    rr_string application_id;
    rr_string recording_id;
    uint32_t store_kind; // 1: recording
};

struct rr_component_descriptor {
    rr_string archetype_name;
    rr_string component;
    rr_string component_type;
};

struct rr_component_type {
    rr_component_descriptor descriptor;
    ArrowSchema schema;
};

struct rr_component_batch {
    rr_component_type_handle component_type;
    ArrowArray array;
};

struct rr_data_row {
    rr_string entity_path;
    uint32_t num_data_cells;
    rr_component_batch* component_batches;
};

struct rr_error {
    uint32_t code;
    char description[2048];
};

const char* rr_version_string(void);
rr_component_type_handle rr_register_component_type(rr_component_type component_type, rr_error* error);
rr_recording_stream rr_recording_stream_new(
    const rr_store_info* store_info, bool default_enabled, bool send_properties, rr_error* error
);
void rr_recording_stream_free(rr_recording_stream stream);
bool rr_recording_stream_is_enabled(rr_recording_stream stream, rr_error* error);
void rr_recording_stream_connect_grpc(
    rr_recording_stream stream, rr_string url, float flush_timeout_sec, rr_error* error
);
void rr_recording_stream_save(rr_recording_stream stream, rr_string path, rr_error* error);
void rr_recording_stream_stdout(rr_recording_stream stream, rr_error* error);
void rr_recording_stream_flush_blocking(rr_recording_stream stream, float timeout_sec, rr_error* error);
void rr_recording_stream_set_time(
    rr_recording_stream stream, rr_string timeline_name, uint32_t time_type, int64_t value, rr_error* error
);
void rr_recording_stream_log(rr_recording_stream stream, rr_data_row data_row, bool inject_time, rr_error* error);
}

#endif
