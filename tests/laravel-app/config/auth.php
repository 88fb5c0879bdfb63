<?php

return [
    'defaults' => ['guard' => 'web', 'passwords' => 'users'],

    'guards' => [
        // The session cookie of a user who signed in at POST /login.
        'web' => ['driver' => 'session', 'provider' => 'users'],
        // "Authorization: Bearer TOKEN", Laravel's own token guard.
        'api' => ['driver' => 'token', 'provider' => 'users', 'hash' => false],
    ],

    'providers' => [
        'users' => ['driver' => 'eloquent', 'model' => App\Models\User::class],
    ],
];
