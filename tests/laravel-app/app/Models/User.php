<?php

namespace App\Models;

use Illuminate\Foundation\Auth\User as Authenticatable;

class User extends Authenticatable
{
    protected $guarded = [];

    protected $hidden = ['password', 'remember_token', 'api_token'];

    protected $casts = ['is_admin' => 'boolean'];

    public function getNameAttribute()
    {
        return $this->first_name.' '.$this->last_name;
    }
}
