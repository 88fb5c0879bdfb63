<?php

use App\Models\Job;
use App\Models\User;
use Illuminate\Support\Facades\Broadcast;

Broadcast::channel('user.{id}', function (User $user, int $id) {
    return (int) $user->id === $id;
});

Broadcast::channel('conversation.{conversationId}', function (User $user, string $conversationId) {
    $userIds = explode('-', $conversationId);
    $userId1 = (int) $userIds[0];
    $userId2 = (int) $userIds[1];

    return $user->id === $userId1 || $user->id === $userId2;
});

Broadcast::channel('job.{jobId}', function (User $user, int $jobId) {
    $job = Job::find($jobId);

    return $user->id === $job->user_id || $user->id === $job->assigned_to;
});

Broadcast::channel('admin', function (User $user) {
    return $user->is_admin;
});

Broadcast::channel('online-users', function (User $user) {
    return [
        'id' => $user->id,
        'name' => $user->first_name.' '.$user->last_name,
        'avatar' => $user->avatar,
    ];
});

/* A presence channel whose callback returns true instead of a member's data. */
Broadcast::channel('true-room', function (User $user) {
    return true;
});

/* A presence channel for the users of one conversation. */
Broadcast::channel('room.{id}', function (User $user, string $id) {
    return in_array((string) $user->id, explode('-', $id), true)
        ? ['id' => $user->id, 'name' => $user->name]
        : false;
});
